"""Images as whole numbers, and the same values as float32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from models import MMInterleavedConfig
from trainer.data.box_resize import box_resize
from trainer.data.compact_batch import CompactImages
from trainer.data.config import DataConfig
from trainer.data.stream import Stream


@pytest.mark.parametrize(
    ("box", "dtype"), [(1, torch.uint8), (2, torch.int16), (11, torch.int16), (12, torch.int32)], ids=str
)
def test_what_the_device_computes_is_the_mean_in_float32(box, dtype):
    side = 4
    pixels = np.random.default_rng(box).integers(0, 256, (3, side * box, side * box, 3), dtype=np.uint8)
    pixels[0] = 255
    images = CompactImages.of(list(pixels), side)
    assert images.values.dtype == dtype
    made = images.to_float()
    assert made[0].eq(1).all()
    # A division of whole numbers below 2^24 is rounded once, by NumPy as by PyTorch: the same bits.
    assert torch.equal(made, torch.from_numpy(box_resize(pixels, side)))
    mean = pixels.reshape(3, side, box, side, box, 3).astype(np.float64).mean((2, 4)) / 255
    np.testing.assert_allclose(made.numpy(), mean.transpose(0, 3, 1, 2), rtol=2**-24, atol=0)


def test_a_batch_has_a_byte_for_each_value_that_the_model_reads():
    model = MMInterleavedConfig.toy()  # reads 64 px, at which the world is drawn
    stream = Stream(DataConfig(num_rows=2), model, seed=0)
    compact, batch = stream.compact_part(3, range(2)), stream.part(3, range(2))
    assert compact.images.values.nbytes * 4 == batch.pixel_values.nbytes > 0
    assert compact.drawn_images.values.nbytes * 2 == batch.drawn_pixels.nbytes > 0  # means of 2 x 2 pixels
    for name in ("input_ids", "targets", "document_ids", "position_ids", "image_positions", "drawn", "drawn_keys"):
        assert torch.equal(getattr(compact, name), getattr(batch, name)), name
    copied = copy.deepcopy(compact).to("cpu")
    assert torch.equal(copied.pixel_values, batch.pixel_values)
    assert copied.dataset_ids is not None
