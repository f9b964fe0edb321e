"""examples/layer.py runs, and its model finds with MMFS what it cannot find without."""

from __future__ import annotations

import pytest
import torch

from examples import layer


def test_an_answer_depends_on_the_newest_image_and_the_place() -> None:
    images, places, colours = layer.sequences(2, torch.Generator().manual_seed(0))
    assert images.shape == (2, layer.NUM_IMAGES, 3, 24, 24)
    row, column = divmod(int(places[1, 2]), layer.GRID)
    square = images[1, 2, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].mean((1, 2)).round()
    assert int(square @ torch.tensor([4.0, 2.0, 1.0])) == colours[1, 2]


def test_no_sequence_sees_an_image_that_comes_later() -> None:
    model = layer.Reader(with_mmfs=True)
    images, places, _ = layer.sequences(2, torch.Generator().manual_seed(0))
    before = model(images, places)
    changed = images.clone()
    changed[0, 2] += 1.0
    after = model(changed, places)
    torch.testing.assert_close(after[0, :2], before[0, :2])
    torch.testing.assert_close(after[1], before[1])
    assert not torch.allclose(after[0, 2], before[0, 2])


@pytest.mark.slow
def test_it_finds_what_one_vector_an_image_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    without, found = layer.main()
    assert without < 0.25
    assert found > 0.8
    assert f"{found:.0%} right" in capsys.readouterr().out
