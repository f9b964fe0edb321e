"""Position tables: which half encodes what, in which unit, on maps that are not square."""

import math

import pytest
import torch

from models.position import pixel_centres, sincos_1d, sincos_2d


def test_sincos_1d_is_the_formula():
    table = sincos_1d(5, 6)

    assert table.shape == (5, 6)
    for position in range(5):
        for wave in range(3):
            angle = position / 10_000 ** (wave / 3)
            assert table[position, wave].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 3 + wave].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_sincos_2d_puts_y_first_and_runs_row_by_row():
    height, width, dim = 3, 5, 8
    table = sincos_2d(height, width, dim).view(height, width, dim)

    rows, columns = sincos_1d(height, dim // 2), sincos_1d(width, dim // 2)
    for y in range(height):
        for x in range(width):
            torch.testing.assert_close(table[y, x, : dim // 2], rows[y])
            torch.testing.assert_close(table[y, x, dim // 2 :], columns[x])


def test_one_point_has_one_code_on_every_level():
    # The centre of a coarse pixel is the corner of four fine ones; with 3 times the pixels the centres coincide.
    coarse = sincos_2d(2, 4, 8, grid=(4, 8)).view(2, 4, 8)
    fine = sincos_2d(6, 12, 8, grid=(4, 8)).view(6, 12, 8)

    torch.testing.assert_close(fine[1::3, 1::3], coarse)
    assert not torch.allclose(sincos_2d(6, 12, 8).view(6, 12, 8)[1::3, 1::3], sincos_2d(2, 4, 8).view(2, 4, 8))


def test_the_grid_itself_counts_whole_cells():
    torch.testing.assert_close(sincos_2d(3, 5, 8, grid=(3, 5)), sincos_2d(3, 5, 8), atol=1e-5, rtol=0)


def test_pixel_centres_are_x_y_row_by_row():
    centres = pixel_centres(2, 4)

    assert centres[:4].tolist() == [[0.125, 0.25], [0.375, 0.25], [0.625, 0.25], [0.875, 0.25]]
    assert centres[4].tolist() == [0.125, 0.75]


def test_empty_tables():
    assert sincos_1d(0, 4).shape == (0, 4)
    assert sincos_2d(0, 3, 4).shape == (0, 4)


def test_widths_that_cannot_hold_the_waves_are_refused():
    with pytest.raises(ValueError, match="dim is 5"):
        sincos_1d(3, 5)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(3, 3, 6)
