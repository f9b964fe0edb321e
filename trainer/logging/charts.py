"""Line charts as SVG: matplotlib lays them out, the page around them gives their colours, also dark ones."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 460, 210
"""Of a chart's viewBox. A page scales it to its width."""

MAX_POINTS = 600
"""Longer curves are thinned to this many points: more than the chart has pixels for."""

POINTS_PER_INCH = 72
"""What matplotlib's SVG has: one unit of the viewBox is one point."""

SVG = "{http://www.w3.org/2000/svg}"


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
        An `<svg class="chart">` element without colours of its own. The page's CSS gives them to its classes `grid`,
        `raw` and `mean`, and to `text`.

    Raises:
        ValueError: there are no values, or one isn't positive.
    """
    if not curve.values or min(curve.values) <= 0:
        raise ValueError(
            f"'{curve.name}' has {len(curve.values)} values, the lowest {min(curve.values, default=None)}; "
            "a logarithmic chart needs at least one, all above 0."
        )
    return _chart(curve, y_range, is_log=True)


def level_chart(curve: Curve, *, from_zero: bool) -> str:
    """Any quantity over the steps on a linear axis, drawn as `loss_chart` draws.

    Args:
        curve: finite values.
        from_zero: the axis holds 0; else it begins a little below the lowest value.

    Returns:
        An `<svg class="chart">` element, as of `loss_chart`.

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
    return _chart(curve, y_range, is_log=False)


def shared_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """The y range that holds all curves, a little wider than they are."""
    values = [value for curve in curves for value in curve.values]
    return min(values) / 1.1, max(values) * 1.1


def _chart(curve: Curve, y_range: tuple[float, float], *, is_log: bool) -> str:
    """The `<svg>` of a curve and its running mean on axes without frames."""
    # here, for only the end of a run draws charts
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(WIDTH / POINTS_PER_INCH, HEIGHT / POINTS_PER_INCH), layout="constrained")
    axes = figure.add_subplot(frameon=False, xlim=(curve.steps[0], max(curve.steps[-1], curve.steps[0] + 1)))
    for line, name in ((curve, "raw"), (curve.smoothed(max(1, len(curve.values) // 50)), "mean")):
        thin = line.thinned(MAX_POINTS)
        axes.plot(thin.steps, thin.values, gid=name)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    axes.set_ylim(y_range)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10), integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(left=False, bottom=False, labelsize=11)
    axes.grid(axis="y")
    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(file, format="svg")
    drawn = ElementTree.fromstring(file.getvalue())
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(curve.name)}">'
        f"{''.join(_elements(drawn))}</svg>"
    )


def _elements(drawn: Any) -> Iterator[str]:
    """The grid, the labels and the curves of matplotlib's SVG, without its styles and ids: on one page with others,
    styles would hold for all, and ids would not be unique."""
    for group in drawn.iter(f"{SVG}g"):
        name = group.get("id", "")
        if name in ("raw", "mean"):
            yield from (f'<path class="{name}" d="{_rounded(path.get("d"))}"/>' for path in group.iter(f"{SVG}path"))
        elif name.startswith(("xtick", "ytick")):
            yield from (f'<path class="grid" d="{_rounded(path.get("d"))}"/>' for path in group.iter(f"{SVG}path"))
            yield from (_label(text, "middle" if name.startswith("x") else "end") for text in group.iter(f"{SVG}text"))


def _label(text: Any, anchor: str) -> str:
    """A label of an axis."""
    x, y = float(text.get("x")), float(text.get("y"))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text.text)}</text>'


def _rounded(path: str) -> str:
    """The path with a tenth of a unit as its precision."""
    return " ".join(word if word.isalpha() else f"{float(word):.1f}" for word in path.split())
