"""`python -m trainer.ablate mmfs`: the same model with and without MMFS, over several seeds, in one table.

All runs of a comparison share seed, data and budget, and begin with the same pre-trained image encoder, which stays as
it is. What is finished is not made again, so a stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from models.atomic_files import write_atomically
from trainer.ablation.plan import STUDIES, Run, Study, runs_of
from trainer.ablation.runs import Bench, Result
from trainer.ablation.scales import SCALES, Scale
from trainer.ablation.starts import ENCODER, pretrained_encoder
from trainer.ablation.tables import markdown, rows
from trainer.config import UsageError
from trainer.json_files import write_json
from trainer.plurals import counted
from trainer.process.environment import environment
from trainer.process.out_directory import make_directory
from trainer.run_directory import MODEL
from trainer.step.loop import NonFiniteError
from trainer.step.out_of_memory import OutOfMemoryError

PROGRAM = "python -m trainer.ablate"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; expected 1 or more.")
    if given.minutes is not None and given.minutes <= 0:
        parser.error(f"--minutes is {given.minutes}; expected a number above 0.")
    study, scale = STUDIES[given.study], SCALES[given.scale]
    lessons = given.lessons or study.lessons
    if strange := sorted(set(lessons) - set(study.lessons)):
        parser.error(
            f"--lessons has {strange[0]}, which is not part of '{study.name}'; expected {', '.join(study.lessons)}."
        )
    runs = list(runs_of(study, scale, given.seeds))
    wanted = [run for run in runs if run.lesson.name in lessons]
    encoder = scale.encoder if scale.encoder is not None else given.out / ENCODER / MODEL
    bench = Bench(scale, given.out, encoder)
    try:
        done = {run: result for run in runs if (result := bench.result(run)) is not None}
        if given.dry_run:
            print_plan(study, wanted, done, scale)
            return 0
        make_directory(given.out)
        return carry_out(study, runs, wanted, done, bench, given.minutes)
    except UsageError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteError, OutOfMemoryError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: stopped during an examination, which begins again when the same command is given.")
        return 130


def make_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=(__doc__ or "").partition("\n\n")[2],
        epilog="Exit code: 0 done or paused by --minutes, 1 a non-finite gradient or a full memory, 2 wrong use, "
        "3 SIGTERM, 130 Ctrl-C.",
    )
    parser.add_argument(
        "study", choices=STUDIES, help="; ".join(f"{study.name}: {study.question}" for study in STUDIES.values())
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablate"), help="directory of all runs; %(default)s")
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="sizes; gpu has not been run yet; %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...; %(default)s of them")
    parser.add_argument("--lessons", nargs="+", metavar="LESSON", help="make only these now; default: all of the study")
    parser.add_argument("--minutes", type=float, help="pause after so many; default: none")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made and how long it takes")
    return parser


def carry_out(
    study: Study,
    runs: Sequence[Run],
    wanted: Sequence[Run],
    done: dict[Run, Result],
    bench: Bench,
    minutes: float | None,
) -> int:
    """Make what is missing of the wanted runs, and write the table of all after each; returns the exit code."""
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    status = pretrained_encoder(bench.scale, bench.out, minutes_left(deadline))
    if status != 0:
        return paused(study) if status is None else status
    pace = Progress(bench.scale)
    for run in wanted:
        if run in done:
            continue
        missing = [other for other in wanted if other not in done]
        place = len(wanted) - len(missing) + 1
        print(f"== run {place} of {len(wanted)}: {run.label}; {in_minutes(pace.left_s(missing))} left", flush=True)
        left = minutes_left(deadline)
        status = None if left is not None and left <= 0 else bench.make(run, left)
        if status is None:
            return paused(study)
        if status:
            print(f"{PROGRAM}: stopped; the same command goes on.")
            return status
        result = bench.result(run)
        assert result is not None, f"{run.place} was made a moment ago"
        done[run] = result
        pace.add(run, result)
        write_tables(study, runs, done, bench)
    print(write_tables(study, runs, done, bench))
    print(f"wrote {bench.out / study.name}.md and .json")
    return 0


def minutes_left(deadline: float | None) -> float | None:
    """Until a time of `time.monotonic`."""
    return None if deadline is None else (deadline - time.monotonic()) / 60


def paused(study: Study) -> int:
    """Say that the time is over; returns the exit code."""
    print(f"--minutes are over. The same command goes on; the table of study '{study.name}' holds what is finished.")
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


def print_plan(study: Study, wanted: Sequence[Run], done: dict[Run, Result], scale: Scale) -> None:
    """Every run that is wanted, whether it is finished, and how long the others take."""
    print(study.question)
    for run in wanted:
        state = "finished" if run in done else in_minutes(run.nominal_s(scale))
        print(f"  {run.label}: {state}")
    missing = [run for run in wanted if run not in done]
    in_all = in_minutes(sum(run.nominal_s(scale) for run in missing))
    print(f"{in_all} on {scale.machine}, for {counted(len(missing), 'run')}. {scale.note}".strip())


def write_tables(study: Study, runs: Sequence[Run], done: dict[Run, Result], bench: Bench) -> str:
    """Write the study's table as Markdown and JSON; returns the former."""
    table = rows(study, done)
    wall_min, cpu_min = (sum(getattr(result, name) for result in done.values()) / 60 for name in ("wall_s", "cpu_s"))
    seeds = sorted({run.seed for run in done})
    facts = [
        f"{len(done)} of {len(runs)} runs; seeds {', '.join(map(str, seeds))}; mean ± standard deviation over them.",
        f"{wall_min:.0f} minutes in all, {cpu_min:.0f} of the CPU, on {environment()['machine']}.",
    ]
    if bench.scale.note:
        facts.append(bench.scale.note)
    text = markdown(study, table, facts)
    content = {
        "command": f"{PROGRAM} {study.name} --scale {bench.scale.name} --seeds {1 + max(run.seed for run in runs)}",
        "study": study.name,
        "scale": bench.scale.name,
        "rows": table,
        "wall_minutes": wall_min,
        "cpu_minutes": cpu_min,
        "environment": environment(),
        "runs": {str(run.place): result.weights for run, result in done.items()},
    }
    write_json(bench.out / f"{study.name}.json", content)
    write_atomically(bench.out / f"{study.name}.md", text)
    return text


if __name__ == "__main__":
    sys.exit(main())
