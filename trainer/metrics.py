"""What a run tells: log.jsonl (the source of truth), TensorBoard, and the progress line."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Step:
    """One optimiser step, as log.jsonl keeps it."""

    phase: str
    step: int
    """Steps of the phase that are done, this one included."""

    num_steps: int
    values: Mapping[str, float | None]
    """Losses, gradient norm, learning rate. None: there was nothing to measure in this batch."""

    num_tokens: int
    num_images: int
    step_s: float
    data_wait_s: float
    """The part of `step_s` spent waiting for the batch."""


class RunLog:
    """Writes what happens to the run directory and to the terminal.

    Args:
        directory: the run directory; None: nothing is written.
        log_every: steps between two progress lines and two TensorBoard points, which are means over those steps.
        first_step: number of steps, over all phases, that were done before; later TensorBoard points are dropped.
        stream: where the progress goes; one updating line if it is a terminal. None: standard output.
    """

    def __init__(
        self, directory: Path | None, *, log_every: int, first_step: int = 0, stream: TextIO | None = None
    ) -> None:
        self._file: TextIO | None = None
        self._board: Any = None
        if directory is not None:
            from torch.utils.tensorboard import SummaryWriter  # here: it takes a second that --help need not wait

            self._file = (directory / LOG).open(
                "a", buffering=1, encoding="utf-8"
            )  # a line is written when it is whole
            self._board = SummaryWriter(str(directory / TENSORBOARD), purge_step=first_step + 1)
        self._board_step = first_step
        self._stream = stream or sys.stdout
        self._log_every = log_every
        self._recent: deque[Step] = deque(maxlen=log_every)
        self._line_open = False

    def say(self, sentence: str) -> None:
        """A line of its own on the terminal."""
        self._end_line()
        print(sentence, file=self._stream, flush=True)

    def event(self, name: str, **facts: Any) -> None:
        """A record in log.jsonl that is not a step."""
        self._write({"event": name, "time_s": time.time(), **facts})

    def step(self, step: Step) -> None:
        """Record a step; show it when it is due."""
        self._write(
            {
                "phase": step.phase,
                "step": step.step,
                **step.values,
                "num_tokens": step.num_tokens,
                "num_images": step.num_images,
                "step_s": round(step.step_s, 6),
                "data_wait_s": round(step.data_wait_s, 6),
            }
        )
        if self._recent and self._recent[-1].phase != step.phase:
            self._recent.clear()
        self._recent.append(step)
        self._board_step += 1
        is_due = step.step % self._log_every == 0 or step.step == step.num_steps
        if is_due or self._stream.isatty():
            means = self._means()
            self._show(progress_line(step, means))
            if is_due and self._board is not None:
                for name, value in means.items():
                    self._board.add_scalar(f"{step.phase}/{name}", value, self._board_step)

    def close(self) -> None:
        """Finish the line, the log and the TensorBoard file."""
        self._end_line()
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            self._file.close()

    @property
    def recent(self) -> list[Step]:
        """The last steps of the phase, at most `log_every`."""
        return list(self._recent)

    def _means(self) -> dict[str, float]:
        """Means over the steps since the last progress line; the rates are sums over seconds."""
        means = {}
        for name in self._recent[-1].values:
            present = [value for step in self._recent if (value := step.values[name]) is not None]
            if present:
                means[name] = sum(present) / len(present)
        seconds = sum(step.step_s for step in self._recent)
        means["tokens_per_s"] = sum(step.num_tokens for step in self._recent) / seconds
        means["images_per_s"] = sum(step.num_images for step in self._recent) / seconds
        means["data_wait_share"] = sum(step.data_wait_s for step in self._recent) / seconds
        means["step_s"] = seconds / len(self._recent)
        return means

    def _show(self, line: str) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r{line}\x1b[K")  # the escape clears what a longer line left behind
            self._stream.flush()
            self._line_open = True
        else:
            print(line, file=self._stream, flush=True)

    def _end_line(self) -> None:
        if self._line_open:
            self._stream.write("\n")
            self._line_open = False

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")


def progress_line(step: Step, means: Mapping[str, float]) -> str:
    """`main 120/2400  loss 6.5  text 2.31  image 0.412  lr 9.8e-04  3210 tokens/s  41 images/s  5:32 left`."""
    parts = [f"{step.phase} {step.step}/{step.num_steps}"]
    parts += [f"{name.removeprefix('loss_')} {means[name]:.4g}" for name in means if name.startswith("loss")]
    parts += [f"{name} {means[name]:.3f}" for name in means if name.startswith("accuracy")]
    parts += [f"lr {means['lr']:.1e}"]
    if means["tokens_per_s"]:
        parts += [f"{means['tokens_per_s']:.0f} tokens/s"]
    parts += [f"{means['images_per_s']:.0f} images/s"]
    left_s = round((step.num_steps - step.step) * means["step_s"])
    hours, minutes, seconds = left_s // 3600, left_s // 60 % 60, left_s % 60
    parts += [f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"]
    return "  ".join(parts)


def read_log(directory: Path) -> Iterator[dict[str, Any]]:
    """The records of a run's log.jsonl; a last line that a power cut left incomplete is passed over."""
    for line in (directory / LOG).read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def forget_steps_after(directory: Path, phases: list[str], phase: str, step: int) -> None:
    """Drop the records of steps that a run resumed at `step` of `phase` will make again; events stay.

    Args:
        directory: the run directory.
        phases: names of all phases in their order.
        phase: the phase that goes on.
        step: how many of its steps are done.
    """
    if not (directory / LOG).exists():
        return
    position = (phases.index(phase), step)
    kept = [
        json.dumps(record) + "\n"
        for record in read_log(directory)
        if "event" in record or (phases.index(record["phase"]), record["step"]) <= position
    ]
    replacement = directory / f".{LOG}"
    replacement.write_text("".join(kept), encoding="utf-8")
    replacement.replace(directory / LOG)
