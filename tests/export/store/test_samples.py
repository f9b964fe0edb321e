import json
from pathlib import Path

import pytest
from PIL import Image

from export.store.samples import load_samples


def write(directory: Path, content: object) -> None:
    folder = directory / "samples"
    folder.mkdir()
    Image.new("L", (5, 4), 200).save(folder / "a.png")
    (folder / "samples.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_documents_beside_the_model_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, [[{"text": "x"}, {"image": "a.png"}, {"text": "y"}]] * 6)
    samples = load_samples(tmp_path)
    assert len(samples.documents) == 4
    before, image, after = samples.documents[0]
    assert (before, after) == ("x", "y")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (5, 4), (200, 200, 200))
    assert samples.source == "the first 4 documents of samples/samples.json beside the model"


def test_given_images_come_first(tmp_path: Path) -> None:
    write(tmp_path, [[{"image": "a.png"}]])
    samples = load_samples(tmp_path, [tmp_path / "samples/a.png"])
    assert [len(document) for document in samples.documents] == [1]
    assert "command line" in samples.source


def test_noise_says_that_it_is_noise(tmp_path: Path) -> None:
    one, other = load_samples(tmp_path), load_samples(tmp_path)
    assert one.source.startswith("seeded noise")
    assert one.documents == other.documents


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a list of documents"),
        ([[{"sound": "a.wav"}]], "not a list of documents"),
        ([[{"text": "x", "image": "a.png"}]], "not a list of documents"),
        (["x"], "not a list of documents"),
        ([[{"text": "x"}]], "hold no image.* or name images with --images"),
    ],
    ids=["no-json", "unknown-kind", "two-kinds", "not-a-list", "no-image"],
)
def test_unusable_samples_are_refused(tmp_path: Path, content: object, message: str) -> None:
    write(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        load_samples(tmp_path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    write(tmp_path, [[{"image": "b.png"}]])
    with pytest.raises(FileNotFoundError, match=r"b\.png'\. Expected a file as JPEG"):
        load_samples(tmp_path)


@pytest.mark.parametrize("content", [b"not an image", None], ids=["text", "cut"])
def test_a_file_that_is_no_whole_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:-2000] if content is None else content)
    with pytest.raises(ValueError, match=r"a\.png' cannot be read as an image\. The image cannot be decoded"):
        load_samples(tmp_path, [file])
