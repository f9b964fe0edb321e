"""A study carried out: its runs one after the other, and a table of what is finished after each."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mmfs.plurals import counted
from models.atomic_files import write_atomically
from models.json_files import write_json
from trainer.ablation.plan import PROGRAM, Plan, Run
from trainer.ablation.runs import Bench, Result
from trainer.ablation.scales import Scale
from trainer.ablation.starts import pretrained_encoder
from trainer.ablation.tables import markdown, rows
from trainer.process.environment import environment


def carry_out(plan: Plan, done: dict[Run, Result], bench: Bench, minutes: float | None) -> int:
    """Make what is missing of the planned runs, and write the table of all after each; returns the exit code."""
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    status = pretrained_encoder(bench.scale, bench.out, minutes_left(deadline))
    if status != 0:
        return paused(plan) if status is None else status
    pace = Progress(bench.scale)
    runs = plan.runs
    for run in runs:
        if run in done:
            continue
        missing = [other for other in runs if other not in done]
        place = len(runs) - len(missing) + 1
        print(f"== run {place} of {len(runs)}: {run.label}; {in_minutes(pace.left_s(missing))} left", flush=True)
        left = minutes_left(deadline)
        status = None if left is not None and left <= 0 else bench.make(run, left)
        if status is None:
            return paused(plan)
        if status:
            print(f"{PROGRAM}: stopped; the same command goes on.")
            return status
        result = bench.result(run)
        assert result is not None, f"{run.place} was made a moment ago"
        done[run] = result
        pace.add(run, result)
        write_tables(plan, done, bench)
    print(write_tables(plan, done, bench))
    print(f"wrote {bench.out / plan.name}.md and .json")
    return 0


def minutes_left(deadline: float | None) -> float | None:
    """Until a time of `time.monotonic`."""
    return None if deadline is None else (deadline - time.monotonic()) / 60


def paused(plan: Plan) -> int:
    """Say that the time is over; returns the exit code."""
    print(f"--minutes are over. The same command goes on; the table '{plan.name}' holds what is finished.")
    return 0


class Progress:
    """How much longer runs take here than planned."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._planned_s = 0.0
        self._taken_s = 0.0

    def add(self, run: Run, result: Result) -> None:
        """A run that was made."""
        self._planned_s += run.nominal_s(self._scale)
        self._taken_s += result.wall_s

    def left_s(self, missing: Sequence[Run]) -> float:
        """Seconds that the missing runs will take."""
        ratio = self._taken_s / self._planned_s if self._planned_s else 1.0
        return ratio * sum(run.nominal_s(self._scale) for run in missing)


def in_minutes(seconds: float) -> str:
    """`about 12 min`."""
    return f"about {max(1, round(seconds / 60))} min"


def print_plan(plan: Plan, done: dict[Run, Result]) -> None:
    """Every planned run, whether it is finished, and how long the others take."""
    print(plan.study.question)
    scale, runs = plan.scale, plan.runs
    for run in runs:
        state = "finished" if run in done else in_minutes(run.nominal_s(scale))
        print(f"  {run.label}: {state}")
    missing = [run for run in runs if run not in done]
    in_all = in_minutes(sum(run.nominal_s(scale) for run in missing))
    print(f"{in_all} on {scale.machine}, for {counted(len(missing), 'run')}. {scale.note}".strip())


def write_tables(plan: Plan, done: dict[Run, Result], bench: Bench) -> str:
    """Write the table of what is done as Markdown and JSON; returns the former."""
    table = rows(plan.study, done)
    wall_min, cpu_min = (sum(getattr(result, name) for result in done.values()) / 60 for name in ("wall_s", "cpu_s"))
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in done}))
    lengths = {run.lesson.name: run.num_steps for run in plan.runs}
    facts = [
        f"{len(done)} of {len(plan.runs)} runs; seeds {seeds}; mean ± standard deviation over them.",
        f"`{plan.command}`: {', '.join(f'{name}, {steps:,} steps' for name, steps in lengths.items())}.",
        f"{wall_min:.0f} minutes in all, {cpu_min:.0f} of the CPU, on {environment()['machine']}.",
    ]
    if bench.scale.note:
        facts.append(bench.scale.note)
    text = markdown(plan.study, table, facts)
    content = {
        "command": plan.command,
        "study": plan.study.name,
        "scale": bench.scale.name,
        "rows": table,
        "wall_minutes": wall_min,
        "cpu_minutes": cpu_min,
        "environment": environment(),
        "runs": {str(run.place): result.weights for run, result in done.items()},
    }
    write_json(bench.out / f"{plan.name}.json", content)
    write_atomically(bench.out / f"{plan.name}.md", text)
    return text
