import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import MMInterleavedProcessor


def test_text_survives(processor: MMInterleavedProcessor) -> None:
    text = "a snail, 42 µm"
    assert processor.decode_text(processor.encode_text(text)) == text
    assert processor.decode_text([1, *processor.encode_text("x"), 2]) == "x"


def test_images_are_cropped_at_the_centre_and_resized(processor: MMInterleavedProcessor) -> None:
    wide = np.zeros((64, 128, 3), dtype=np.uint8)
    wide[:, 32:96] = 200
    pixels = processor.encode_image(Image.fromarray(wide))
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, torch.full((3, 32, 32), 200 / 255))


def test_images_need_not_be_square(processor: MMInterleavedProcessor, tmp_path: Path) -> None:
    MMInterleavedProcessor(processor.tokenizer, image_size=(16, 32)).save_pretrained(tmp_path)
    wide = MMInterleavedProcessor.from_directory(tmp_path)
    assert wide is not None
    square = np.zeros((64, 64, 3), dtype=np.uint8)
    square[16:48] = 200  # the part of that shape in its centre
    torch.testing.assert_close(wide.encode_image(square), torch.full((3, 16, 32), 200 / 255))
    half = torch.rand(3, 16, 32)
    assert torch.equal(wide.encode_image(half), half)


def test_a_squeezed_image_is_whole_and_stays_so(processor: MMInterleavedProcessor, tmp_path: Path) -> None:
    MMInterleavedProcessor(processor.tokenizer, image_size=(16, 32), fit="squeeze").save_pretrained(tmp_path)
    again = MMInterleavedProcessor.from_directory(tmp_path)
    assert again is not None
    thirds = np.repeat(np.array([10, 100, 200], np.uint8), 40)[:, None, None] * np.ones((1, 50, 3), np.uint8)
    rows = again.encode_image(thirds)[0, :, 0] * 255
    torch.testing.assert_close(rows[[1, 8, 14]], torch.tensor([10.0, 100.0, 200.0]), atol=1, rtol=0)
    with pytest.raises(ValueError, match="fit is 'pad'; expected 'crop' or 'squeeze'"):
        MMInterleavedProcessor(processor.tokenizer, image_size=32, fit="pad")  # type: ignore[arg-type]


def test_arrays_tensors_and_images_agree(processor: MMInterleavedProcessor) -> None:
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    for form in (array, tensor, Image.fromarray(array)):
        torch.testing.assert_close(processor.encode_image(form), tensor)
    assert np.array_equal(np.array(processor.decode_image(tensor)), array)


def test_it_is_called_as_transformers_processors_are(processor: MMInterleavedProcessor) -> None:
    image = Image.new("RGB", (40, 50), "red")
    inputs = processor(text=["a snail", "two"], images=[image, image])
    assert inputs.input_ids.shape == inputs["attention_mask"].shape == (2, 7)
    assert inputs.attention_mask.tolist() == [[1] * 7, [1] * 3 + [0] * 4]
    assert processor.batch_decode(inputs.input_ids) == ["a snail", "two"]
    assert processor.batch_decode([processor.encode_text("x")]) == ["x"]
    assert inputs.pixel_values.shape == (2, 3, 32, 32)
    one = processor("a snail", image)
    assert torch.equal(one.input_ids[0], inputs.input_ids[0])
    assert torch.equal(one.pixel_values, inputs.pixel_values[:1])
    assert set(processor(images=image)) == {"pixel_values"}


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8), np.zeros((32, 32), dtype=np.uint8)],
    ids=["one-channel", "byte-tensor", "grey-array"],
)
def test_a_wrong_image_gets_a_sentence(processor: MMInterleavedProcessor, wrong: object) -> None:
    with pytest.raises(ValueError, match=r"An image (tensor|array) must be .* got"):
        processor.encode_image(wrong)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (torch.full((3, 32, 32), 200.0), r"got values from 200 to 200\. Divide it by 255"),
        (torch.full((3, 40, 32), 200.0), r"got values from 200 to 200\. Divide it by 255"),
        (torch.full((3, 32, 32), -1.5), "got values from -1.5 to -1.5. Undo its normalisation"),
        (torch.full((3, 32, 32), float("nan")), "got NaN. Look where it comes from"),
        (torch.full((3, 32, 32), float("inf")), "got values from inf to inf. Look"),
        (torch.zeros(3, 0, 32), r"got torch.float32 \[3, 0, 32\]"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "must be float"),
        (np.zeros((3, 32, 40), np.uint8), r"numpy\.moveaxis\(array, 0, -1\)"),
        (np.zeros((0, 32, 3), np.uint8), r"got uint8 \[0, 32, 3\]"),
        (np.zeros((32, 32, 3)), r"got float64 \[32, 32, 3\]"),
        (np.zeros((32, 32), np.uint16), r"PIL\.Image\.fromarray"),
        (np.zeros((32, 32, 4), np.uint8), "Pass transparency as a PIL image"),
        (np.zeros((32, 32, 3), np.int64), "got int64"),
        (Image.new("RGB", (0, 5)), "has 0 x 5 pixels"),
        (Image.new("1", (9000, 9000)), "has 9000 x 9000 pixels; the limit is 64,000,000 in all"),
    ],
)
def test_numbers_that_would_be_another_image_are_refused(
    processor: MMInterleavedProcessor, wrong: Image.Image, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        processor.encode_image(wrong)


def test_a_tensor_is_brought_into_its_range(processor: MMInterleavedProcessor) -> None:
    for size in ((32, 32), (64, 64)):
        pixels = processor.encode_image(torch.full((3, *size), 1.001))
        assert torch.equal(pixels, torch.ones(3, 32, 32))
    half = processor.encode_image(torch.full((3, 32, 32), 0.5, dtype=torch.float16))
    assert torch.equal(half, torch.full((3, 32, 32), 0.5))
    flipped = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)[::-1, ::-1]
    assert np.array_equal(processor.decode_image(processor.encode_image(flipped)), flipped)


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1), (3, 2)])
def test_an_image_of_any_shape_is_seen(processor: MMInterleavedProcessor, size: tuple[int, int]) -> None:
    for image_size in (32, (16, 32), (32, 16)):
        for fit in ("crop", "squeeze"):
            other = MMInterleavedProcessor(processor.tokenizer, image_size=image_size, fit=fit)
            assert other.encode_image(Image.new("RGB", size, "white")).min() == 1


def test_text_is_text(processor: MMInterleavedProcessor) -> None:
    for text in ("<image> a photo of", "</s>", "<BoI>", "<pad><s>"):
        again = pickle.loads(pickle.dumps(processor))
        for one in (processor, again):
            assert not set(one.encode_text(text)) & {0, 1, 2, 3, 4}
            assert one.decode_text(one.encode_text(text)) == text
    assert processor("<image>").input_ids.tolist() == [processor.encode_text("<image>")]


def test_a_token_that_is_added_later_is_known(processor: MMInterleavedProcessor) -> None:
    assert len(processor.encode_text("snail")) == 5
    processor.tokenizer.add_tokens(["snail"])
    assert len(processor.encode_text("snail")) == 1


def test_a_file_name_is_no_image(processor: MMInterleavedProcessor) -> None:
    with pytest.raises(TypeError, match=r"got a str\. Open a file with PIL\.Image\.open"):
        processor.encode_image("snail.png")  # type: ignore[arg-type]


def test_a_processor_survives_its_directory(processor: MMInterleavedProcessor, tmp_path: Path) -> None:
    assert MMInterleavedProcessor.from_directory(tmp_path) is None
    processor.save_pretrained(tmp_path)
    loaded = MMInterleavedProcessor.from_directory(tmp_path)
    assert loaded is not None
    assert (loaded.height, loaded.width) == (32, 32)
    assert loaded.encode_text("snail") == processor.encode_text("snail")


@pytest.mark.parametrize("name", ["tokenizer.json", "processor.json"])
def test_a_damaged_file_is_named(processor: MMInterleavedProcessor, tmp_path: Path, name: str) -> None:
    processor.save_pretrained(tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(ValueError, match=rf"{name} is damaged \(.*\)\. Fetch or make it again"):
        MMInterleavedProcessor.from_directory(tmp_path)


def test_a_missing_tokenizer_is_said(processor: MMInterleavedProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds processor\.json and no tokenizer\.json"):
        MMInterleavedProcessor.from_directory(tmp_path)
