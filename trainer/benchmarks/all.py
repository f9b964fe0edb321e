"""All benchmarks of the paper's Tables 1 to 4. docs/evaluation.md says where each file comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from trainer.benchmarks.benchmark import Benchmark, Figure, Source
from trainer.benchmarks.emoji import PREFIX, emoji_benchmarks
from trainer.benchmarks.few_shot.targets import first_reference, usual_answer
from trainer.benchmarks.readers.captions import read_coco_form, read_karpathy, read_lavis, read_paragraphs
from trainer.benchmarks.readers.dialogues import History, read_visdial
from trainer.benchmarks.readers.drawing import Prompts, read_ade20k, read_coco_prompts, read_narratives
from trainer.benchmarks.readers.expressions import read_references
from trainer.benchmarks.readers.questions import (
    read_gqa,
    read_textvqa,
    read_vizwiz,
    read_vqa_form,
    read_vqa_questions,
)
from trainer.benchmarks.readers.stories import read_clips, read_vist
from trainer.benchmarks.sample import Split
from trainer.benchmarks.scoring import (
    score_boxes,
    score_captions,
    score_first_sentences,
    score_gqa,
    score_rankings,
    score_textvqa,
    score_vizwiz,
    score_vqa,
)
from trainer.benchmarks.submissions import (
    caption_submission,
    gqa_submission,
    visdial_submission,
    vizwiz_submission,
    vqa_submission,
)
from trainer.errors import UsageError

CAPTION_OPTIONS = {"num_beams": 5, "length_penalty": 1.0, "max_new_tokens": 20, "min_new_tokens": 8}
PARAGRAPH_OPTIONS = {
    "num_beams": 5,
    "length_penalty": 1.0,
    "max_new_tokens": 90,
    "min_new_tokens": 90,
    "repetition_penalty": 1.2,
}
ANSWER_OPTIONS = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 10}
BOX_OPTIONS = {"max_new_tokens": 32}
DRAWING_OPTIONS = {"guidance_scale": 3.5, "num_inference_steps": 250, "scheduler": "ddpm"}

VAL2014_NAME = "COCO_val2014_{:012d}.jpg"
TRAIN2014_NAME = "COCO_train2014_{:012d}.jpg"

NUM_DRAWN = 30_000
"""Images drawn for COCO and Localized Narratives (paper, Table 3)."""


def _karpathy(file: str, images: str, expected: int | None = None) -> Source:
    return Source((file,), read_karpathy, images, expected)


COCO_TRAINING = (_karpathy("coco/dataset_coco.json", "coco"),)


def _visdial(history: History) -> tuple[Source, ...]:
    files = ("visdial/visdial_1.0_val.json", "visdial/visdial_1.0_val_dense_annotations.json")
    return (Source(files, partial(read_visdial, history=history), "visdial/VisualDialog_val2018", 2064),)


def _expressions(name: str, title: str, partition: str, splits: Mapping[str, tuple[int, float]]) -> Benchmark:
    """RefCOCO and its like, whose splits stand in one file.

    Args:
        splits: how many sentences each officially has, and the paper's figure.
    """
    return Benchmark(
        name=name,
        title=title,
        kind="text",
        metric="accuracy at IoU 0.5",
        splits={
            split: tuple(
                Source(
                    (f"{name}/refs({partition}){suffix}", f"{name}/instances.json"),
                    read_references,
                    "coco/train2014",
                    expected,
                )
                for suffix in (".p", ".json")
            )
            for split, (expected, _) in splits.items()
        },
        paper={split: Figure(None, tuned, "Table 2") for split, (_, tuned) in splits.items()},
        task="grounding",
        options=BOX_OPTIONS,
        score=score_boxes,
    )


def _coco_prompts(prompts: Prompts) -> tuple[Source, ...]:
    read = partial(read_coco_prompts, prompts=prompts)
    return (Source(("coco/annotations/captions_val2014.json",), read, "coco/val2014", NUM_DRAWN),)


def _clips(name: str, title: str, files: tuple[str, ...], num_stories: int, figure: float) -> Benchmark:
    """PororoSV and FlintstonesSV."""

    def read(*given: Any) -> Split:
        *_, folder, split, expected = given
        return read_clips(name, folder, split, expected)

    return Benchmark(
        name=name,
        title=title,
        kind="image",
        metric="FID",
        splits={"test": (Source(tuple(f"{name}/{file}" for file in files), read, name, num_stories),)},
        paper={"test": Figure(None, figure, "Table 4")},
        options=DRAWING_OPTIONS,
        higher_is_better=False,
    )


def _of(*benchmarks: Benchmark) -> dict[str, Benchmark]:
    return {benchmark.name: benchmark for benchmark in benchmarks}


BENCHMARKS: dict[str, Benchmark] = _of(
    Benchmark(
        name="coco_caption",
        title="COCO captions",
        kind="text",
        metric="CIDEr",
        splits={
            "test": (
                _karpathy("coco/dataset_coco.json", "coco", 5000),
                Source(("coco/coco_karpathy_test.json",), read_lavis, "coco", 5000),
            ),
            "val": (_karpathy("coco/dataset_coco.json", "coco", 5000),),
        },
        paper={"test": Figure(129.0, 140.5, "Tables 1 and 2")},
        task="caption",
        tuned_task="caption_tuned",
        options=CAPTION_OPTIONS,
        score=score_first_sentences,
        training=COCO_TRAINING,
        target=first_reference,
        submission=caption_submission,
    ),
    Benchmark(
        name="flickr30k",
        title="Flickr30k captions",
        kind="text",
        metric="CIDEr",
        splits={
            "test": (
                _karpathy("flickr30k/dataset_flickr30k.json", "flickr30k/flickr30k-images", 1000),
                Source(("flickr30k/captions.json",), read_coco_form, "flickr30k/flickr30k-images", 1000),
            )
        },
        paper={"test": Figure(85.8, 93.0, "Tables 1 and 2")},
        task="caption",
        tuned_task="caption_tuned",
        options=CAPTION_OPTIONS,
        score=score_captions,
        training=(_karpathy("flickr30k/dataset_flickr30k.json", "flickr30k/flickr30k-images"),),
        target=first_reference,
    ),
    Benchmark(
        name="nocaps",
        title="nocaps",
        kind="text",
        metric="CIDEr",
        splits={"val": (Source(("nocaps/nocaps_val_4500_captions.json",), read_coco_form, "nocaps/images", 4500),)},
        paper={"val": Figure(106.4, 123.2, "Tables 1 and 2")},
        task="caption",
        tuned_task="caption_tuned",
        options=CAPTION_OPTIONS,
        score=score_captions,
        training=COCO_TRAINING,
        target=first_reference,
        submission=caption_submission,
        deviations={"val": "the paper's table names the test split, the released code reads val"},
    ),
    Benchmark(
        name="image2paragraph",
        title="Image2Paragraph",
        kind="text",
        metric="CIDEr",
        splits={
            "test": (
                Source(
                    ("image2paragraph/paragraphs_v1.json", "image2paragraph/test_split.json"),
                    read_paragraphs,
                    "image2paragraph/images",
                    2489,
                ),
            )
        },
        paper={"test": Figure(23.5, 30.3, "Tables 1 and 2")},
        task="detailed_caption",
        tuned_task="detailed_caption_tuned",
        options=PARAGRAPH_OPTIONS,
        score=score_captions,
        training=(
            Source(
                ("image2paragraph/paragraphs_v1.json", "image2paragraph/train_split.json"),
                read_paragraphs,
                "image2paragraph/images",
            ),
        ),
        target=first_reference,
    ),
    Benchmark(
        name="vqav2",
        title="VQAv2",
        kind="text",
        metric="VQA accuracy",
        splits={
            "test-dev": (
                Source(
                    ("vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json",),
                    partial(read_vqa_questions, image_name="COCO_test2015_{:012d}.jpg"),
                    "coco/test2015",
                    107_394,
                ),
            ),
            "val": (
                Source(
                    (
                        "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
                        "vqav2/v2_mscoco_val2014_annotations.json",
                    ),
                    partial(read_vqa_form, image_name=VAL2014_NAME),
                    "coco/val2014",
                    214_354,
                ),
            ),
        },
        paper={"test-dev": Figure(57.0, 80.2, "Tables 1 and 2")},
        task="question",
        options=ANSWER_OPTIONS,
        score=score_vqa,
        training=(
            Source(
                ("vqav2/v2_OpenEnded_mscoco_train2014_questions.json", "vqav2/v2_mscoco_train2014_annotations.json"),
                partial(read_vqa_form, image_name=TRAIN2014_NAME),
                "coco/train2014",
            ),
        ),
        target=usual_answer,
        submission=vqa_submission,
    ),
    Benchmark(
        name="okvqa",
        title="OK-VQA",
        kind="text",
        metric="VQA accuracy",
        splits={
            "val": (
                Source(
                    ("okvqa/OpenEnded_mscoco_val2014_questions.json", "okvqa/mscoco_val2014_annotations.json"),
                    partial(read_vqa_form, image_name=VAL2014_NAME),
                    "coco/val2014",
                    5046,
                ),
            )
        },
        paper={"val": Figure(40.0, 51.7, "Tables 1 and 2")},
        task="question",
        options=ANSWER_OPTIONS,
        score=score_vqa,
        training=(
            Source(
                ("okvqa/OpenEnded_mscoco_train2014_questions.json", "okvqa/mscoco_train2014_annotations.json"),
                partial(read_vqa_form, image_name=TRAIN2014_NAME),
                "coco/train2014",
            ),
        ),
        target=usual_answer,
        submission=vqa_submission,
    ),
    Benchmark(
        name="gqa",
        title="GQA",
        kind="text",
        metric="exact match",
        splits={
            "testdev": (Source(("gqa/testdev_balanced_questions.json",), read_gqa, "gqa/images", 12_578),),
        },
        paper={"testdev": Figure(None, 60.5, "Table 2")},
        task="question",
        options=ANSWER_OPTIONS,
        score=score_gqa,
        training=(Source(("gqa/train_balanced_questions.json",), read_gqa, "gqa/images"),),
        target=usual_answer,
        submission=gqa_submission,
        deviations={"testdev": "answers are put into lower case before the official comparison"},
    ),
    Benchmark(
        name="vizwiz",
        title="VizWiz",
        kind="text",
        metric="VizWiz accuracy",
        splits={
            "test": (Source(("vizwiz/test.json",), read_vizwiz, "vizwiz/test", 8000),),
            "val": (Source(("vizwiz/val.json",), read_vizwiz, "vizwiz/val", 4319),),
        },
        paper={"test": Figure(40.8, 54.9, "Tables 1 and 2")},
        task="question_or_unanswerable",
        options=ANSWER_OPTIONS,
        score=score_vizwiz,
        training=(Source(("vizwiz/train.json",), read_vizwiz, "vizwiz/train"),),
        target=usual_answer,
        submission=vizwiz_submission,
        deviations={"test": "the paper reports test-dev, a part of test that only the server knows"},
    ),
    Benchmark(
        name="textvqa",
        title="TextVQA",
        kind="text",
        metric="TextVQA accuracy",
        splits={
            "val": (Source(("textvqa/TextVQA_0.5.1_val.json",), read_textvqa, "textvqa/train_images", 5000),),
        },
        paper={"val": Figure(37.2, 61.0, "Tables 1 and 2")},
        task="question",
        options=ANSWER_OPTIONS,
        score=score_textvqa,
        training=(Source(("textvqa/TextVQA_0.5.1_train.json",), read_textvqa, "textvqa/train_images"),),
        target=usual_answer,
        submission=vqa_submission,
    ),
    Benchmark(
        name="visdial",
        title="VisDial",
        kind="ranking",
        metric="NDCG",
        splits={"val": _visdial("all"), "val-release": _visdial("release")},
        paper={name: Figure(48.7, 53.7, "Tables 1 and 2") for name in ("val", "val-release")},
        task="dialogue",
        score=score_rankings,
        submission=visdial_submission,
        deviations={"val": "all earlier rounds are read; the released code leaves out the last one"},
    ),
    _expressions("refcoco", "RefCOCO", "unc", {"val": (10_834, 89.92), "testA": (5657, 92.59), "testB": (5095, 86.54)}),
    _expressions(
        "refcoco+", "RefCOCO+", "unc", {"val": (10_758, 82.99), "testA": (5726, 88.57), "testB": (4889, 77.07)}
    ),
    _expressions("refcocog", "RefCOCOg", "umd", {"val": (4896, 85.21), "test": (9602, 84.92)}),
    Benchmark(
        name="coco_30k",
        title="COCO, text to image",
        kind="image",
        metric="FID",
        splits={"val": _coco_prompts("ours"), "val-release": _coco_prompts("release")},
        paper={name: Figure(7.90, None, "Table 3") for name in ("val", "val-release")},
        deviations={"val": "one caption for each image, chosen by a fixed seed, against all real images of the split"},
        options=DRAWING_OPTIONS,
        higher_is_better=False,
    ),
    Benchmark(
        name="ln_coco",
        title="Localized Narratives of COCO, text to image",
        kind="image",
        metric="FID",
        splits={
            "val": (
                Source(
                    ("coco/coco_val_captions.jsonl",),
                    read_narratives,
                    "coco/val2017",
                    NUM_DRAWN,
                ),
            )
        },
        paper={"val": Figure(23.88, None, "Table 3")},
        options=DRAWING_OPTIONS,
        higher_is_better=False,
    ),
    Benchmark(
        name="ade20k",
        title="ADE20K, label map to image",
        kind="image",
        metric="mIoU",
        splits={
            "validation": (
                Source(
                    ("ade20k/ADEChallengeData2016",),
                    lambda folder, _images, split, expected: read_ade20k(folder, split, expected),
                    "ade20k/ADEChallengeData2016/images",
                    2000,
                ),
            )
        },
        paper={"validation": Figure(None, 0.44, "Table 4")},
        task="label_map",
        options=DRAWING_OPTIONS,
    ),
    Benchmark(
        name="vist",
        title="VIST",
        kind="image",
        metric="CLIP-I",
        splits={
            "val": (
                Source(("vist/val_formatted.json",), read_vist, "vist/images"),
                Source(("vist/val.story-in-sequence.json",), read_vist, "vist/images"),
            )
        },
        paper={"val": Figure(None, 0.70, "Table 4")},
        options=DRAWING_OPTIONS,
    ),
    _clips("pororo", "PororoSV", ("descriptions.npy", "img_cache4.npy", "following_cache4.npy"), 2208, 14.7),
    _clips(
        "flintstones",
        "FlintstonesSV",
        ("flintstones_annotations_v1-0.json", "following_cache4.pkl"),
        2309,
        18.7,
    ),
    *emoji_benchmarks(),
)
"""By name."""


EMOJI = [name for name in BENCHMARKS if name.startswith(PREFIX)]


def benchmarks_named(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names; `all` is every one, `emoji` every one of the emoji world.

    Raises:
        UsageError: there is none of a name.
    """
    if "all" in names:
        return list(BENCHMARKS.values())
    names = [one for name in names for one in (EMOJI if name == "emoji" else [name])]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise UsageError(
            f"There is no benchmark {unknown[0]!r}; expected some of {', '.join(BENCHMARKS)}, emoji, or all."
        )
    return [BENCHMARKS[name] for name in dict.fromkeys(names)]
