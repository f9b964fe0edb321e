import numpy as np
import pytest
import torch
from PIL import Image

from official_scores import read_official
from trainer.benchmarks.networks.resizing import from_pixels, middle_square, resized_as_float, to_inception

OFFICIAL = read_official("fid")


@pytest.mark.parametrize("case", OFFICIAL["resizing"], ids=lambda case: case["name"])
def test_images_are_resized_as_elsewhere(case) -> None:
    image = Image.fromarray(np.array(case["image"], dtype=np.uint8))
    side = case["size"][0]
    np.testing.assert_allclose(resized_as_float(image, side), case["clean"], atol=1e-3)
    cut = np.asarray(middle_square(image, side, Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(cut, case["released_short_side_then_crop"])
    squeezed = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(squeezed, case["ar_ldm_squeeze"])


def test_the_long_side_is_rounded_down() -> None:
    for (width, height), resized in OFFICIAL["resize_64_sizes"]:
        seen = []
        image = Image.new("RGB", (width, height))
        image.resize = lambda size, _how, seen=seen, image=image: seen.append(size) or Image.Image.resize(image, size)
        assert middle_square(image, 64, Image.Resampling.BICUBIC).size == (64, 64)
        assert seen == ([] if [width, height] == resized else [tuple(resized)])


@pytest.mark.parametrize("protocol", ["64", "64-squeeze", "256", "clean"])
def test_protocols(protocol) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    tensor = to_inception(Image.fromarray(noise), protocol)
    assert tensor.shape == (3, 299, 299)
    assert tensor.dtype == torch.float32
    assert -1 <= tensor.min() < -0.1 < 0.1 < tensor.max() <= 1
    white = to_inception(Image.new("RGB", (50, 80), "white"), protocol)
    assert white.min() == pytest.approx((255 - 128) / 128 if protocol == "clean" else 1, abs=1e-6)


def test_pixels_of_the_right_size_are_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 * 2 - 1
    torch.testing.assert_close(from_pixels(pixels), expected)
