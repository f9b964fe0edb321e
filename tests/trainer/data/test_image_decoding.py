"""Encoded images, whole and broken."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE

from models.processor import MMInterleavedProcessor
from trainer.data.image_decoding import decode, square
from trainer.data.sources.sample import BrokenSampleError


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_of_every_format(shards, kind):
    image = decode(shards.image_bytes(0, (50, 40), kind), 2000)
    assert (image.size, image.mode) == ((50, 40), "RGB")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode):
    file = io.BytesIO()
    Image.new(mode, (6, 5)).save(file, "JPEG" if mode == "CMYK" else "PNG")
    assert decode(file.getvalue(), 100).mode == "RGB"


def test_what_declares_too_many_pixels_is_refused_undecoded(shards):
    bomb = shards.bomb(20_000)
    assert len(bomb) < 100_000
    with pytest.raises(BrokenSampleError, match=r"20000 x 20000 pixels|could be decompression bomb"):
        decode(bomb, 64_000_000)
    with pytest.raises(BrokenSampleError, match=r"has 50 x 40 pixels; the limit is 1,999"):
        decode(shards.image_bytes(0, (50, 40)), 1999)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_broken(shards, kind):
    data = shards.image_bytes(0, (100, 100), kind)
    for size in (len(data) // 2, 20, 0):
        with pytest.raises(BrokenSampleError, match="cannot be decoded"):
            decode(data[:size], 10_000)


def test_other_formats_are_broken():
    file = io.BytesIO()
    Image.new("RGB", (5, 5)).save(file, "BMP")
    for data in (file.getvalue(), b"<html>not found</html>"):
        with pytest.raises(BrokenSampleError, match="cannot be decoded"):
            decode(data, 100)


@pytest.mark.parametrize("fit", ["crop", "squeeze"])
@pytest.mark.parametrize("wh", [(50, 40), (40, 50), (32, 32), (7, 100)])
def test_training_sees_what_inference_sees(shards, wh, fit):
    image = decode(shards.image_bytes(3, wh), 10_000)
    pixels = square(image, 32, fit=fit)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    shown = MMInterleavedProcessor(Tokenizer(BPE()), image_size=32, fit=fit).encode_image(image)
    assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, shown)


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (as_npy(np.zeros((2, 8, 8), np.uint8)), r"is uint8 \[2, 8, 8\]; expected numbers \[frames, h, w, 3\]"),
        (as_npy(np.zeros((0, 8, 8, 3), np.uint8)), "expected numbers"),
        (as_npy(np.array([None])), "is object"),
        (as_npy(np.zeros((2, 8, 9, 3), np.uint8)), "declares 9 x 8 pixels; the limit is 64"),
        (as_npy(np.zeros((2, 8, 8, 3), np.uint8))[:-1], "ends before the last of its 2 frames"),
        (as_npy(np.zeros((2, 8, 8, 3), np.uint8)).replace(b"(2,", b"(9,"), "ends before the last of its 9 frames"),
        (as_npy(np.zeros((2, 8, 8, 3), np.uint8))[:40], "cannot be read"),
        (as_npy(np.zeros((2, 8, 8, 3), np.uint8)).replace(b"(2, 8, 8, 3), ", b"(2, -8, 8, 3),"), "expected numbers"),
        (as_npy(np.zeros((2, 8, 8, 3), np.uint8)).replace(b"}", b" ", 1), "header is damaged"),
    ],
)
def test_other_arrays_are_broken(data, sentence):
    with pytest.raises(BrokenSampleError, match=sentence):
        decode(data, 64, moment=0.0)


def test_frames_stand_above_each_other_or_side_by_side(shards):
    for wh, boxes in (((10, 25), [(0, 0, 10, 10), (0, 10, 10, 20)]), ((20, 10), [(0, 0, 10, 10), (10, 0, 20, 10)])):
        strip = decode(shards.image_bytes(1, wh), 1000)
        for moment, box in zip((0.2, 0.7), boxes, strict=True):
            assert decode(shards.image_bytes(1, wh), 1000, moment=moment).tobytes() == strip.crop(box).tobytes()
