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


def test_pictures_are_cropped_at_the_centre_and_resized(processor: MMInterleavedProcessor) -> None:
    wide = np.zeros((64, 128, 3), dtype=np.uint8)
    wide[:, 32:96] = 200
    pixels = processor.encode_image(Image.fromarray(wide))
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, torch.full((3, 32, 32), 200 / 255))


def test_arrays_tensors_and_images_agree(processor: MMInterleavedProcessor) -> None:
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    for form in (array, tensor, Image.fromarray(array)):
        torch.testing.assert_close(processor.encode_image(form), tensor)
    assert np.array_equal(np.array(processor.decode_image(tensor)), array)


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8), np.zeros((32, 32), dtype=np.uint8)],
    ids=["one-channel", "byte-tensor", "grey-array"],
)
def test_a_wrong_picture_gets_a_sentence(processor: MMInterleavedProcessor, wrong: object) -> None:
    with pytest.raises(ValueError, match=r"An image (tensor|array) must be .* got"):
        processor.encode_image(wrong)


def test_a_processor_survives_its_directory(processor: MMInterleavedProcessor, tmp_path: Path) -> None:
    assert MMInterleavedProcessor.from_directory(tmp_path) is None
    processor.save_pretrained(tmp_path)
    loaded = MMInterleavedProcessor.from_directory(tmp_path)
    assert loaded is not None
    assert loaded.image_size == 32
    assert loaded.encode_text("snail") == processor.encode_text("snail")
