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
