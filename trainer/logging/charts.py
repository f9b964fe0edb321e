"""Line charts as SVG that takes its colours from the page around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

WIDTH, HEIGHT = 460, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 30
MAX_POINTS = 600
"""Longer curves are thinned to this many points: more than the chart has pixels for."""


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    def smoothed(self, window: int) -> Curve:
        """The mean over the last `window` values at each step."""
        means, total = [], 0.0
        for i, value in enumerate(self.values):
            total += value
            if i >= window:
                total -= self.values[i - window]
            means.append(total / min(i + 1, window))
        return Curve(self.name, self.steps, tuple(means))

    def thinned(self, most: int) -> Curve:
        """Every n-th point, so that at most `most` are left."""
        every = max(1, math.ceil(len(self.steps) / most))
        return Curve(self.name, self.steps[::every], self.values[::every])


def loss_chart(curve: Curve, *, y_range: tuple[float, float]) -> str:
    """A loss over the steps on a logarithmic axis: each value faintly, the running mean over 2 % of the run on top.

    Args:
        curve: positive values.
        y_range: lowest and highest value of the axis, so that charts side by side can share it.

    Returns:
        An `<svg>` element; colours are the CSS variables --line, --faint and --text.

    Raises:
        ValueError: there are no values, or one isn't positive.
    """
    if not curve.values or min(curve.values) <= 0:
        raise ValueError(
            f"'{curve.name}' has {len(curve.values)} values, the lowest {min(curve.values, default=None)}; "
            "a logarithmic chart needs at least one, all above 0."
        )
    return _chart(curve, log_ticks(*y_range), partial(_log_y, y_range=y_range))


def level_chart(curve: Curve, *, from_zero: bool) -> str:
    """Any quantity over the steps on a linear axis, drawn as `loss_chart` draws.

    Args:
        curve: finite values.
        from_zero: the axis holds 0; else it begins a little below the lowest value.

    Returns:
        An `<svg>` element.

    Raises:
        ValueError: there are no values.
    """
    if not curve.values:
        raise ValueError(f"'{curve.name}' has no values; a chart needs at least one.")
    lowest, highest = min(curve.values), max(curve.values)
    if from_zero:
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    margin = 0.05 * (highest - lowest) or 0.05 * abs(highest) or 1.0
    y_range = (lowest if from_zero and lowest == 0 else lowest - margin, highest + margin)
    return _chart(curve, round_ticks(*y_range), partial(_level_y, y_range=y_range))


def _chart(curve: Curve, ticks: Sequence[float], place: Callable[[float], float]) -> str:
    """An `<svg>` with an axis of `ticks`; `place` is where a value stands."""
    x_range = (curve.steps[0], max(curve.steps[-1], curve.steps[0] + 1))
    mean = curve.smoothed(max(1, len(curve.values) // 50))
    labels = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in ticks
        for y in [place(value)]
    ] + [
        f'<text x="{_x(step, x_range):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step:,}</text>'
        for step, anchor in ((x_range[0], "start"), (sum(x_range) // 2, "middle"), (x_range[1], "end"))
        if anchor != "middle" or step not in x_range
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(curve.name)}">'
        f"{''.join(labels)}"
        f'<polyline class="raw" points="{_points(curve, x_range, place)}"/>'
        f'<polyline class="mean" points="{_points(mean, x_range, place)}"/>'
        "</svg>"
    )


def shared_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """The y range that holds all curves, a little wider than they are."""
    values = [value for curve in curves for value in curve.values]
    return min(values) / 1.1, max(values) * 1.1


def log_ticks(lowest: float, highest: float) -> list[float]:
    """The values 1, 2 and 5 times a power of ten in a range."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    candidates = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [value for value in candidates if lowest <= value <= highest]


def round_ticks(lowest: float, highest: float, most: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in a range that is not empty: at most `most`, at least two."""
    rough = (highest - lowest) / most
    power = 10.0 ** math.floor(math.log10(rough))
    distance = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    return [n * distance for n in range(math.ceil(lowest / distance), math.floor(highest / distance) + 1)]


def _points(curve: Curve, x_range: tuple[int, int], place: Callable[[float], float]) -> str:
    thin = curve.thinned(MAX_POINTS)
    pairs = zip(thin.steps, thin.values, strict=True)
    return " ".join(f"{_x(step, x_range):.1f},{place(value):.1f}" for step, value in pairs)


def _x(step: float, x_range: tuple[int, int]) -> float:
    return LEFT + (step - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)


def _log_y(value: float, y_range: tuple[float, float]) -> float:
    return _level_y(math.log(value), (math.log(y_range[0]), math.log(y_range[1])))


def _level_y(value: float, y_range: tuple[float, float]) -> float:
    lowest, highest = y_range
    return TOP + (highest - value) / (highest - lowest) * (HEIGHT - TOP - BOTTOM)
