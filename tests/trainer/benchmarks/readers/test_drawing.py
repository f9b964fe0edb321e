import json

import pytest

from trainer.benchmarks.readers.drawing import read_ade20k, read_coco_prompts, read_narratives
from trainer.errors import UsageError


def test_one_caption_an_image_and_all_real_images(data) -> None:
    file, images = data / "coco/annotations/captions_val2014.json", data / "coco/val2014"
    split = read_coco_prompts(file, images, "val", 3)
    assert len(split.samples) == 3
    assert len({int(sample.id) // 10 for sample in split.samples}) == 3, "one caption an image"
    assert len(split.real_images) == 4
    assert [sample.id for sample in split.samples] == [
        sample.id for sample in read_coco_prompts(file, images, "val", 3).samples
    ]
    assert all(sample.document[0] == sample.document[0].lower() for sample in split.samples)


def test_the_released_choice(data) -> None:
    file, images = data / "coco/annotations/captions_val2014.json", data / "coco/val2014"
    split = read_coco_prompts(file, images, "val", 7, prompts="release")
    assert [sample.id for sample in split.samples] == ["10", "11", "12", "13", "14", "20", "21"]
    assert [image.path.name[-6:] for image in split.real_images] == ["01.jpg"] * 5 + ["02.jpg"] * 2


def test_narratives_are_drawn_several_times(data) -> None:
    split = read_narratives(data / "coco/coco_val_captions.jsonl", data / "coco/val2017", "val", 10)
    assert len(split.samples) == len(split.real_images) == 10
    assert [sample.id for sample in split.samples][:4] == ["0-1", "1-1", "2-1", "3-1"]
    assert split.samples[0].document[0].startswith("In this image")
    assert len(read_narratives(data / "coco/coco_val_captions.jsonl", data, "val", 2).samples) == 2


def test_label_maps_have_texts(data, tmp_path) -> None:
    folder = data / "ade20k/ADEChallengeData2016"
    split = read_ade20k(folder, "validation", 2000)
    first = split.samples[0]
    assert first.images[0].form == "label map"
    assert "_" not in first.document[1]
    assert split.real_images[0].path == folder / "images/validation/ADE_val_00000001.jpg"
    own = tmp_path / "ADE"
    (own / "annotations").mkdir(parents=True)
    (own / "annotations/validation").symlink_to(folder / "annotations/validation")
    with pytest.raises(UsageError, match=r"neither captions\.json nor sceneCategories\.txt"):
        read_ade20k(own, "validation", None)
    (own / "captions.json").write_text(json.dumps({"ADE_val_00000001": "a room"}))
    with pytest.raises(UsageError, match="has no text for ADE_val_00000002, one of 3"):
        read_ade20k(own, "validation", None)
    with pytest.raises(UsageError, match="has no label map"):
        read_ade20k(own, "training", None)
