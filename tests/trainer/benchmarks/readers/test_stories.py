import json

import pytest

from trainer.benchmarks.readers.stories import read_clips, read_vist
from trainer.benchmarks.sample import DrawnBefore, ImageFile
from trainer.errors import UsageError


def test_the_last_image_of_a_story_is_asked(data) -> None:
    split = read_vist(data / "vist/val_formatted.json", data / "vist/images", "val", None)
    first = split.samples[0]
    kinds = [type(segment) for segment in first.document]
    assert kinds == [str, ImageFile] * 4 + [str]
    assert split.real_images[0].path == data / "vist/images/5.jpg"


def test_stories_in_sequence(tmp_path) -> None:
    parts = [
        [
            {
                "story_id": "9",
                "worker_arranged_photo_order": str(order),
                "photo_flickr_id": str(order),
                "text": f"t{order}",
            }
        ]
        for order in (4, 0, 2, 1, 3)
    ]
    file = tmp_path / "val.story-in-sequence.json"
    file.write_text(json.dumps({"annotations": parts}))
    [sample] = read_vist(file, tmp_path, "val", None).samples
    assert sample.id == "9"
    assert [segment for segment in sample.document if isinstance(segment, str)] == [f"t{i}" for i in range(5)]


@pytest.mark.parametrize("form", ["pororo", "flintstones"])
def test_images_2_to_5_are_drawn_after_each_other(data, form) -> None:
    split = read_clips(form, data / form, "test", 2208)
    assert split.expected == 4 * 2208
    four = split.samples[:4]
    assert len({sample.group for sample in four}) == 1
    assert [type(segment) for segment in four[0].document] == [str, ImageFile, str]
    last = four[3].document
    assert [segment for segment in last if isinstance(segment, DrawnBefore)] == [
        DrawnBefore(sample.id) for sample in four[:3]
    ]
    again = read_clips(form, data / form, "test", None)
    assert [image.frame for image in again.real_images] == [image.frame for image in split.real_images]
    assert len({image.frame for image in split.real_images}) > 1


def test_a_story_with_a_missing_text(tmp_path) -> None:
    file = tmp_path / "val_formatted.json"
    file.write_text(json.dumps([{"image_ids": [1, 2], "captions": ["a"]}]))
    with pytest.raises(UsageError, match="entry 0: it has 2 images for 1 captions"):
        read_vist(file, tmp_path, "val", None)
