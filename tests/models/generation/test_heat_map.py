import numpy as np
import pytest
import torch
from PIL import Image

from models.generation.heat_map import heat_map, overlay

PLACES = torch.tensor([[0.25, 0.75], [0.0, 0.0], [1.2, 0.5], [float("nan"), 0.5]])
WEIGHTS = torch.tensor([0.5, 0.25, 0.125, 0.125])


@pytest.mark.parametrize("size", [(40, 40), (20, 60), (1, 1)])
def test_the_weight_of_places_inside_is_kept_also_at_the_edge(size: tuple[int, int]) -> None:
    map_ = heat_map(PLACES, WEIGHTS, size)
    assert map_.shape == size
    assert float(map_.sum()) == pytest.approx(0.75)


def test_the_largest_weight_is_where_its_place_is() -> None:
    row, column = divmod(int(heat_map(PLACES[:1], WEIGHTS[:1], (40, 80)).argmax()), 80)
    assert abs(row + 0.5 - 30) <= 1
    assert abs(column + 0.5 - 20) <= 1


def test_an_image_without_attention_stays_grey_and_one_with_it_is_coloured_there() -> None:
    grey = Image.new("RGB", (50, 30), (90, 90, 90))
    nothing = np.array(overlay(grey, PLACES[:0], WEIGHTS[:0]))
    assert nothing.shape == (240, 400, 3)
    assert (nothing == 90).all()
    coloured = np.array(overlay(grey, PLACES[:1], WEIGHTS[:1])).astype(int)
    spread = coloured.max(-1) - coloured.min(-1)
    assert spread[180 - 12, 100] > 40, "beside the dot"
    assert spread[:60].max() < 10, "far from it"
    assert (coloured[180, 100] == 255).all(), "the dot itself"
