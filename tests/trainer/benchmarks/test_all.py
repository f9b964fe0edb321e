import pytest

from models.generation.options import GenerationOptions
from models.generation.prompts import PROMPTS
from trainer.benchmarks.all import BENCHMARKS, benchmarks_named
from trainer.benchmarks.sample import DrawnBefore
from trainer.errors import UsageError

PAPER = {
    "coco_caption": (129.0, 140.5),
    "flickr30k": (85.8, 93.0),
    "nocaps": (106.4, 123.2),
    "image2paragraph": (23.5, 30.3),
    "vqav2": (57.0, 80.2),
    "okvqa": (40.0, 51.7),
    "gqa": (None, 60.5),
    "vizwiz": (40.8, 54.9),
    "textvqa": (37.2, 61.0),
    "visdial": (48.7, 53.7),
    "refcoco": (None, 89.92),
    "refcoco+": (None, 82.99),
    "refcocog": (None, 85.21),
    "coco_30k": (7.90, None),
    "ln_coco": (23.88, None),
    "ade20k": (None, 0.44),
    "vist": (None, 0.70),
    "pororo": (None, 14.7),
    "flintstones": (None, 18.7),
}


PUBLISHED = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.needs_files}


def test_the_papers_figures() -> None:
    found = {}
    for name, benchmark in PUBLISHED.items():
        figure = benchmark.paper[benchmark.default_split]
        found[name] = (figure.zero_shot, figure.tuned)
    assert found == PAPER


@pytest.mark.parametrize("one", PUBLISHED.values(), ids=PUBLISHED)
def test_every_split_of_a_small_folder_is_read(one, data) -> None:
    for name in one.splits:
        split = one.open(data, name)
        assert split.samples
        assert len({sample.id for sample in split.samples}) == len(split.samples)
        assert all(file.is_file() for file in split.files)
        assert all(path.is_file() for path in split.image_paths)
        assert all(image.path.is_file() for image in split.real_images)
        if one.kind == "image":
            assert split.real_images
            assert split.name in ("val", "val-release", "validation", "test")
        for sample in split.samples[:20]:
            if one.kind == "ranking":
                assert len(sample.candidates) == 100
            if one.task is not None and not any(isinstance(segment, DrawnBefore) for segment in sample.document):
                document = [segment if isinstance(segment, str) else object() for segment in sample.document]
                assert PROMPTS[one.task].fill(document)


@pytest.mark.parametrize("one", BENCHMARKS.values(), ids=BENCHMARKS)
def test_options_and_prompts_are_those_of_generate(one) -> None:
    mode = "image" if one.kind == "image" else "text"
    GenerationOptions.of({"mode": mode, **one.options})
    for tuned in (False, True):
        assert one.prompt_task(tuned) is None or one.prompt_task(tuned) in PROMPTS
    assert set(one.paper) <= set(one.splits)
    assert (one.score is None) == (one.kind == "image")


def test_names() -> None:
    assert [one.name for one in benchmarks_named(["gqa", "vist", "gqa"])] == ["gqa", "vist"]
    assert len(benchmarks_named(["all"])) == len(BENCHMARKS) == 19 + 7 + 6
    assert [one.name for one in benchmarks_named(["emoji"])] == [name for name in BENCHMARKS if name not in PUBLISHED]
    with pytest.raises(UsageError, match="There is no benchmark 'coco'; expected some of coco_caption"):
        benchmarks_named(["coco"])


def test_what_is_missing_is_named(tmp_path, data) -> None:
    with pytest.raises(UsageError, match=r"needs in .*: coco/dataset_coco.json; or coco/coco_karpathy_test.json"):
        BENCHMARKS["coco_caption"].open(tmp_path, "test")
    with pytest.raises(UsageError, match="has no split 'train'; it has test, val"):
        BENCHMARKS["coco_caption"].open(data, "train")
