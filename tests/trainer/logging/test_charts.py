import re
from xml.etree import ElementTree

import pytest

from trainer.logging.charts import HEIGHT, WIDTH, Curve, level_chart, loss_chart, shared_range

FALLING = Curve("loss", tuple(range(1, 1001)), tuple(10 / step for step in range(1, 1001)))


def points_of(svg: str, kind: str) -> list[tuple[float, float]]:
    [found] = re.findall(rf'<path class="{kind}" d="M ([^"]*)"', svg)
    return [tuple(map(float, pair.split())) for pair in found.split(" L ")]


def labels_of(svg: str, anchor: str) -> list[str]:
    """Of the x axis ("middle") or the y axis ("end")."""
    return re.findall(rf'text-anchor="{anchor}">([^<]*)</text>', svg)


def test_a_falling_loss_goes_down_to_the_right_within_the_chart() -> None:
    points = points_of(loss_chart(FALLING, y_range=shared_range([FALLING])), "raw")
    assert 20 < len(points) <= 600
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys)  # SVG counts y downwards
    assert 0 < xs[0] < xs[-1] < WIDTH
    assert 0 < ys[0] < ys[-1] < HEIGHT


def test_a_factor_is_the_same_height_everywhere_on_the_axis() -> None:
    curve = Curve("loss", (1, 2, 3), (4.0, 2.0, 1.0))
    heights = [y for _, y in points_of(loss_chart(curve, y_range=(0.5, 8)), "raw")]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11)


def test_smoothing_is_a_running_mean_over_what_there_is() -> None:
    assert Curve("x", (1, 2, 3, 4), (4.0, 2.0, 6.0, 1.0)).smoothed(2).values == (4.0, 3.0, 4.0, 3.5)


def test_labels_of_a_logarithmic_axis_are_round_and_inside() -> None:
    svg = loss_chart(Curve("loss", (1, 2), (0.04, 3.0)), y_range=(0.04, 3))
    assert labels_of(svg, "end") == ["0.05", "0.1", "0.2", "0.5", "1", "2"]
    assert svg.count('class="grid"') == 6


def test_values_that_have_no_logarithm_are_refused() -> None:
    with pytest.raises(ValueError, match="all above 0"):
        loss_chart(Curve("loss", (1, 2), (1.0, 0.0)), y_range=(0.1, 1))
    with pytest.raises(ValueError, match="has 0 values"):
        loss_chart(Curve("loss", (), ()), y_range=(0.1, 1))


def test_a_run_of_one_step_has_a_chart() -> None:
    assert len(points_of(loss_chart(Curve("loss", (1,), (2.0,)), y_range=(1, 4)), "mean")) == 1


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0.0, 100.0), ["0", "20", "40", "60", "80", "100"]),
        ((0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ((-0.25, 0.25), ["−0.2", "−0.1", "0", "0.1", "0.2"]),
    ],
)
def test_labels_of_a_level_axis_are_round_and_inside(values, labels) -> None:
    assert labels_of(level_chart(Curve("x", (1, 2), values), from_zero=True), "end") == labels


def test_a_difference_is_the_same_height_everywhere_on_a_level_axis() -> None:
    svg = level_chart(Curve("rate", (1, 2, 3), (1.0, 2.0, 3.0)), from_zero=True)
    heights = [y for _, y in points_of(svg, "raw")]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert "0" in labels_of(svg, "end")
    assert "0" not in labels_of(level_chart(Curve("rate", (1, 2), (5.0, 6.0)), from_zero=False), "end")


@pytest.mark.parametrize("value", [0.0, -2.0, 3.0])
@pytest.mark.parametrize("from_zero", [True, False])
def test_a_level_chart_of_one_value_stays_inside(value, from_zero) -> None:
    [(_, y)] = points_of(level_chart(Curve("x", (1,), (value,)), from_zero=from_zero), "raw")
    assert 0 < y < HEIGHT


def test_steps_are_labelled_with_whole_numbers() -> None:
    assert labels_of(level_chart(Curve("x", (1, 2), (5.0, 6.0)), from_zero=False), "middle") == ["1", "2"]
    assert labels_of(loss_chart(FALLING, y_range=(0.01, 10)), "middle") == ["200", "400", "600", "800", "1,000"]


def test_a_chart_has_no_colours_styles_or_ids_of_its_own() -> None:
    svg = loss_chart(Curve("<loss>", (1, 2), (1.0, 2.0)), y_range=(0.5, 4))
    assert re.findall(r"\b(style|id|fill|stroke|href)=", svg) == []
    assert 'aria-label="&lt;loss&gt;"' in svg
    root = ElementTree.fromstring(svg)
    assert {element.tag for element in root} == {"path", "text"}
