"""`python -m trainer.run_page RUN`: a page about a training run, one HTML file without anything from outside.

A run writes it as `index.html` when it ends, however it ends; the command writes it for a run that was killed, goes on,
or is from before there was such a page.
"""

from __future__ import annotations

import argparse
import base64
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

from models.atomic_files import write_atomically
from models.program import explained, run_program
from models.urls import local_path
from trainer.errors import UsageError
from trainer.logging.charts import Curve, level_chart, loss_chart, shared_range
from trainer.logging.log_file import read_log
from trainer.run_files import LOG, PAGE, SAMPLES, SETTINGS

TEMPLATE = Path(__file__).with_name("run_page.html")

NO_CURVES = frozenset(
    {"phase", "step", "num_tokens", "num_images", "step_s", "data_wait_s", "mfu", "peak_memory_bytes"}
)
"""What a step's record has besides measured values."""

TITLES = {
    "loss": "loss",
    "loss_text": "text loss, nats a token",
    "loss_image": "image loss",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
}
NUM_SAMPLES = 6
"""Most sheets of samples on the page, spread over the run; the last one is among them."""

ENDS = {"done": "finished", "paused": "paused by max_minutes", "stopped": "stopped"}


def write_page(run: Path) -> Path:
    """Write the page of a run directory; returns its path.

    Raises:
        UsageError: there is no run in the directory.
    """
    if not (run / LOG).exists():
        raise UsageError(f"{run} has no {LOG}; expected the directory of a training run.")
    samples = {int(file.stem): file.read_bytes() for file in sorted((run / SAMPLES).glob("[0-9]*.png"))}
    page = render_page(run.resolve().name, list(read_log(run)), _text_of(run / SETTINGS), samples)
    write_atomically(run / PAGE, page)
    return run / PAGE


def is_page_up_to_date(run: Path) -> bool:
    """Whether a run's page is there and not older than its log."""
    try:
        return (run / PAGE).stat().st_mtime_ns >= (run / LOG).stat().st_mtime_ns
    except FileNotFoundError:
        return False


def render_page(
    name: str, records: Sequence[Mapping[str, Any]], settings: str, samples: Mapping[int, bytes] = MappingProxyType({})
) -> str:
    """The page as HTML.

    Args:
        name: what to call the run.
        records: of its log.jsonl.
        settings: its config.yaml; empty: there is none.
        samples: PNGs by the steps done, in order.
    """
    events = [record for record in records if "event" in record]
    steps = [record for record in records if "event" not in record]
    phases = dict.fromkeys(record["phase"] for record in steps)
    sections = [_curves(phase, [record for record in steps if record["phase"] == phase]) for phase in phases]
    if samples:
        sections.append(_samples(samples))
    if settings:
        sections.append(
            "<h2>Settings</h2><details><summary>config.yaml, which --config reads</summary>"
            f"<pre>{escape(settings)}</pre></details>"
        )
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(name), lead=_lead(events, steps), sections="\n".join(sections)
    )


def _lead(events: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> str:
    """What ran, where, for how long and how it ended."""
    facts: dict[str, str] = {}
    starts = [event for event in events if event["event"] == "start"]
    ends = [event for event in events if event["event"] in ("start", *ENDS)]
    if ends:
        last = ends[-1]
        state = ENDS.get(last["event"], "began, and its end is not in the log")
        reason = f": {last['reason']}" if "reason" in last else ""
        facts["State"] = f"{state}{reason} ({datetime.fromtimestamp(last['time_s']):%Y-%m-%d %H:%M})"
    if steps:
        facts["Last step"] = f"{steps[-1]['step']:,} of phase “{steps[-1]['phase']}”"
        seconds = sum(record.get("step_s", 0.0) for record in steps)
        if seconds:
            facts["Time in steps"] = str(timedelta(seconds=round(seconds)))
    if starts:
        start = starts[-1]
        facts["Recipe"] = start["recipe"]
        facts["Model"] = f"{start['num_parameters']:,} parameters, {start['num_trainable']:,} trainable"
        facts["Starts from"] = start["init"] or "random weights, or the parts in the settings"
        facts["Device"] = f"{start['device']}, PyTorch {start['torch']}"
        if len(starts) > 1:
            facts["Resumed"] = f"{len(starts) - 1} times"
    num_skipped = len({(event["phase"], event["step"]) for event in events if event["event"] == "skipped"})
    if num_skipped:
        facts["Skipped steps"] = f"{num_skipped}, for their gradients were not finite; {LOG} names their documents"
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in facts.items()) + "</dl>"


def _curves(phase: str, steps: Sequence[Mapping[str, Any]]) -> str:
    """The charts of a phase: what was measured, then how fast it went."""
    names = dict.fromkeys(name for record in steps for name in record if name not in NO_CURVES)
    charts = [_figure(_title(name), _curve(name, steps)) for name in names if "/" not in name]
    apart = "".join(_figure(_title(name), _curve(name, steps)) for name in names if "/" in name)
    timed = [record for record in steps if record.get("step_s")]
    for title, part in (
        ("tokens a second", "num_tokens"),
        ("images a second", "num_images"),
        ("share of time waiting for data", "data_wait_s"),
    ):
        rates = [record[part] / record["step_s"] for record in timed]
        if any(rates):
            charts.append(
                _figure(title, Curve(title, tuple(record["step"] for record in timed), tuple(rates)), rate=True)
            )
    charts.append(_figure("model FLOPs utilisation", _curve("mfu", steps), rate=True))
    charts.append(_figure("peak memory, GB", _curve("peak_memory_bytes", steps, unit=1e9), rate=True))
    shown = "".join(chart for chart in charts if chart)
    page = (
        f"<h2>Phase “{escape(phase)}”</h2><p class=note>Faint: each step. Strong: the mean over 2 % of the steps. "
        f'The number is the last mean.</p><div class="charts">{shown}</div>'
    )
    return page + (f'<h3>Each dataset apart</h3><div class="charts">{apart}</div>' if apart else "")


def _title(name: str) -> str:
    """Of the chart of a value; what stands after a slash is the dataset that it is of."""
    quantity, _, dataset = name.partition("/")
    title = TITLES.get(quantity, quantity.replace("_", " "))
    return f"{dataset}: {title}" if dataset else title


def _samples(samples: Mapping[int, bytes]) -> str:
    """The last sheet, and earlier ones behind a click."""
    steps = list(samples)
    every = max(1, -(-len(steps) // NUM_SAMPLES))
    shown = steps[::-1][::every]
    sheets = []
    for step in shown:
        data = base64.b64encode(samples[step]).decode("ascii")
        image = f'<img alt="samples after step {step}" src="data:image/png;base64,{data}">'
        sheets.append(f'<div class="sample"><p class=note>after step {step:,}</p>{image}</div>')
    earlier = f"<details><summary>Earlier ones</summary>{''.join(sheets[1:])}</details>" if sheets[1:] else ""
    return (
        f"<h2>Samples</h2><p class=note>Held-out documents, always the same; {len(shown)} of the {len(steps)} sheets "
        f"in {SAMPLES}/.</p>{sheets[0]}{earlier}"
    )


def _curve(name: str, steps: Sequence[Mapping[str, Any]], unit: float = 1.0) -> Curve:
    """The steps at which a value was measured, and how many units it was."""
    points = [(record["step"], record[name] / unit) for record in steps if record.get(name) is not None]
    return Curve(name, tuple(step for step, _ in points), tuple(value for _, value in points))


def _figure(title: str, curve: Curve, *, rate: bool = False) -> str:
    """A chart with its title; nothing where nothing was measured. Losses and norms that span more than a factor of
    four get a logarithmic axis."""
    if not curve.values:
        return ""
    is_log = curve.name.startswith(("loss", "grad_norm")) and min(curve.values) > 0
    is_log = is_log and max(curve.values) > 4 * min(curve.values)
    from_zero = rate or curve.name == "lr" or curve.name.startswith("accuracy")
    chart = loss_chart(curve, y_range=shared_range([curve])) if is_log else level_chart(curve, from_zero=from_zero)
    last = curve.smoothed(max(1, math.ceil(len(curve.values) / 50))).values[-1]
    caption = f"<span><b>{escape(title)}</b>{', log scale' if is_log else ''}</span><span>{last:.4g}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{chart}</figure>"


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.run_page", description="Write RUN/index.html.")
    parser.add_argument("run", type=local_path, metavar="RUN", help="the directory of a training run")
    options = parser.parse_args(arguments)
    try:
        print(write_page(options.run))
    except (OSError, UsageError) as error:
        print(f"{parser.prog}: {explained(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
