"""Rows to batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.data.box_resize import box_resize
from trainer.data.collate import collate
from trainer.data.pack import PlacedImage, Row, SpecialTokens, Tokens
from trainer.data.stable_key import stable_key

SPECIAL = SpecialTokens(pad=0, begin=1, end=2, begin_of_image=3, image=4)


def random_image(seed: int, image_side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (image_side, image_side, 3), dtype=np.uint8)


def test_a_batch_of_two_rows():
    first = Tokens("a/0", "a", [1, 9, 3, 4, 2], [9, 3, -100, 2, -100], [PlacedImage(3, random_image(0), True)])
    second = Tokens("b/0", "b", [1, 3, 4, 2], [-100, -100, 2, -100], [PlacedImage(2, random_image(1), False)])
    rows = [Row([first, second]), Row([second, first])]
    batch = collate(rows, SPECIAL, row_tokens=10, image_side=8, drawn_image_side=4, seed=5, step=7).to("cpu")
    assert batch.input_ids.tolist() == [[1, 9, 3, 4, 2, 1, 3, 4, 2, 0], [1, 3, 4, 2, 1, 9, 3, 4, 2, 0]]
    assert batch.targets[0].tolist() == [9, 3, -100, 2, -100, -100, -100, 2, -100, -100]
    assert batch.document_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 1, 1, 1, 1, 1, -1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0], [0, 1, 2, 3, 0, 1, 2, 3, 4, 0]]
    assert batch.image_positions.tolist() == [[0, 3], [0, 7], [1, 2], [1, 7]]
    assert batch.drawn.tolist() == [0, 3]
    assert batch.drawn_keys.tolist() == [stable_key(5, 7, 0, 0), stable_key(5, 7, 1, 1)]
    expected = (
        torch.from_numpy(np.stack([random_image(0), random_image(1), random_image(1), random_image(0)])).permute(
            0, 3, 1, 2
        )
        / 255
    )
    torch.testing.assert_close(batch.pixel_values, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(batch.drawn_pixels[0], torch.nn.functional.avg_pool2d(expected[0], 2))
    assert batch.dataset_ids is None


def test_documents_are_numbered_by_their_dataset():
    first = Tokens("a/0", "a", [1, 9, 2], [9, 2, -100], [])
    second = Tokens("b/0", "b", [1, 2], [2, -100], [])
    size = {"row_tokens": 6, "image_side": 8, "drawn_image_side": 4, "seed": 0, "step": 0}
    batch = collate([Row([first, second]), Row([second])], SPECIAL, **size, datasets=["b", "a"])
    assert batch.dataset_ids.tolist() == [[1, 1, 1, 0, 0, -1], [0, 0, -1, -1, -1, -1]]


def test_a_batch_without_images_keeps_its_shapes():
    batch = collate(
        [Row([Tokens("a/0", "a", [1, 9, 2], [9, 2, -100], [])])],
        SPECIAL,
        row_tokens=4,
        image_side=8,
        drawn_image_side=4,
        seed=0,
        step=0,
    ).to("cpu")
    assert batch.pixel_values.shape == (0, 3, 8, 8)
    assert batch.drawn_pixels.shape == (0, 3, 4, 4)
    assert batch.image_positions.shape == (0, 2)
    assert batch.drawn.dtype == batch.drawn_keys.dtype == batch.image_positions.dtype == torch.int64


@pytest.mark.parametrize("image_side", [1, 3, 4, 12])
def test_box_resize_is_the_mean_of_boxes(image_side):
    images = np.stack([random_image(0, 12), random_image(1, 12)])
    box = 12 // image_side
    expected = images.reshape(2, image_side, box, image_side, box, 3).astype(np.float64).mean((2, 4)) / 255
    resized = box_resize(images, image_side)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected.transpose(0, 3, 1, 2), atol=1e-7)


@pytest.mark.parametrize(("shape", "image_side"), [((1, 12, 12, 3), 5), ((1, 12, 8, 3), 4)])
def test_box_resize_refuses_what_has_no_whole_boxes(shape, image_side):
    with pytest.raises(ValueError, match=f"cannot be averaged down to {image_side} px"):
        box_resize(np.zeros(shape, dtype=np.uint8), image_side)


def test_stable_keys_are_spread_and_fixed():
    keys = {stable_key(0, step, row) for step in range(50) for row in range(50)}
    assert len(keys) == 2500
    assert all(0 <= key < 2**63 for key in keys)
    assert stable_key(1, 2, 3) == 1517167407554927345


def test_a_target_of_its_own_is_what_is_drawn():
    image = PlacedImage(3, random_image(0), True, target=random_image(1, 4))
    row = Row([Tokens("a/0", "a", [1, 9, 3, 4, 2], [9, 3, -100, 2, -100], [image])])
    batch = collate([row], SPECIAL, row_tokens=5, image_side=8, drawn_image_side=4, seed=5, step=7, first_row=6)
    assert batch.drawn_images.values.dtype == torch.uint8
    batch = batch.to("cpu")
    expected = torch.from_numpy(random_image(1, 4)).permute(2, 0, 1) / 255
    torch.testing.assert_close(batch.drawn_pixels[0], expected, rtol=0, atol=0)
    assert batch.drawn_keys.tolist() == [stable_key(5, 7, 6, 0)]
