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
from trainer.data.pictures import decode, square
from trainer.data.sources.sample import BrokenSampleError


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_of_every_format(shards, kind):
    picture = decode(shards.picture(0, (50, 40), kind), 2000)
    assert (picture.size, picture.mode) == ((50, 40), "RGB")


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
    with pytest.raises(BrokenSampleError, match=r"declares 50 x 40 pixels; the limit is 1,999"):
        decode(shards.picture(0, (50, 40)), 1999)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_broken(shards, kind):
    data = shards.picture(0, (100, 100), kind)
    for size in (len(data) // 2, 20, 0):
        with pytest.raises(BrokenSampleError, match="cannot be decoded"):
            decode(data[:size], 10_000)


def test_other_formats_are_broken():
    file = io.BytesIO()
    Image.new("RGB", (5, 5)).save(file, "GIF")
    for data in (file.getvalue(), b"<html>not found</html>"):
        with pytest.raises(BrokenSampleError, match="cannot be decoded"):
            decode(data, 100)


@pytest.mark.parametrize("wh", [(50, 40), (40, 50), (32, 32), (7, 100)])
def test_training_sees_what_inference_sees(shards, wh):
    picture = decode(shards.picture(3, wh), 10_000)
    pixels = square(picture, 32)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    shown = MMInterleavedProcessor(Tokenizer(BPE()), image_size=32).encode_image(picture)
    assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, shown)
