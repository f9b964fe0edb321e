import json

import pytest

from trainer.benchmarks.readers.captions import read_coco_form, read_karpathy, read_lavis, read_paragraphs
from trainer.errors import UsageError


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def test_karpathys_split(data) -> None:
    split = read_karpathy(data / "coco/dataset_coco.json", data / "coco", "test", 5000)
    assert [sample.id for sample in split.samples] == ["2", "3", "4"]
    assert split.samples[0].images[0].path == data / "coco/val2014/COCO_val2014_000000000002.jpg"
    assert len(split.samples[0].truth["references"]) == 5
    with pytest.raises(UsageError, match="has no image of the split 'restval'"):
        read_karpathy(data / "coco/dataset_coco.json", data / "coco", "restval", None)


def test_the_form_of_lavis(tmp_path) -> None:
    name = "val2014/COCO_val2014_000000391895.jpg"
    file = written(tmp_path / "a.json", [{"image": name, "caption": ["a", "b"]}])
    [sample] = read_lavis(file, tmp_path, "test", None).samples
    assert sample.id == "391895"
    assert sample.images[0].path == tmp_path / name
    assert sample.truth["references"] == ["a", "b"]


def test_domains_of_nocaps(data) -> None:
    split = read_coco_form(data / "nocaps/nocaps_val_4500_captions.json", data / "nocaps/images", "val", None)
    assert {sample.truth["domain"] for sample in split.samples} == {"in-domain", "near-domain", "out-domain"}


def test_paragraphs(data, tmp_path) -> None:
    folder = data / "image2paragraph"
    split = read_paragraphs(folder / "paragraphs_v1.json", folder / "test_split.json", folder / "images", "test", None)
    assert [sample.id for sample in split.samples] == ["2", "3", "4"]
    assert split.samples[0].images[0].path == folder / "images/VG_100K/2.jpg"
    other = written(tmp_path / "split.json", [2, 99])
    with pytest.raises(UsageError, match="has no paragraph of image 99"):
        read_paragraphs(folder / "paragraphs_v1.json", other, folder / "images", "test", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "has no 'annotations'"),
        ({"images": [{"id": 1, "file_name": "a"}], "annotations": []}, "image 1 has no caption"),
        ({"images": [{"id": "x", "file_name": "a"}], "annotations": []}, "entry 0: an id is 'x'"),
        (
            {
                "images": [{"id": 1, "file_name": "a"}] * 2,
                "annotations": [{"id": 1, "image_id": 1, "caption": "c"}],
            },
            "id 1 stands twice",
        ),
        ({"images": [], "annotations": [{"image_id": 1, "caption": 3}]}, "entry 0: 3 stands where a text should be"),
        ([1], "has no 'annotations'"),
    ],
)
def test_files_of_another_form(tmp_path, content, message) -> None:
    with pytest.raises(UsageError, match=message):
        read_coco_form(written(tmp_path / "a.json", content), tmp_path, "val", None)
