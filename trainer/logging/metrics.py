"""The log of a run: log.jsonl (the source of truth), TensorBoard, and the progress line."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from models.program import OutputClosed, is_unusable
from trainer.logging.log_file import LogFile
from trainer.logging.time_left import time_left
from trainer.run_files import LOG, TENSORBOARD

if TYPE_CHECKING:
    from trainer.logging.tensorboard_file import TensorBoardFile


@dataclass(frozen=True)
class Step:
    """One optimiser step, as log.jsonl keeps it."""

    phase: str
    step: int
    """Steps of the phase that are done, this one included."""

    num_steps: int
    values: Mapping[str, float | None]
    """Losses, gradient norm, learning rate. None: there was nothing to measure in this batch. What has a slash in its
    name is a part of what stands before it."""

    num_tokens: int
    num_images: int
    step_s: float
    data_wait_s: float
    """The part of `step_s` spent waiting for the batch."""

    flops: float | None = None
    """Operations of the model in this step; None: not counted."""

    peak_memory_bytes: int | None = None
    """The most that any process has used until now; None: not asked for at this step."""


class Sink(Protocol):
    """Another receiver of every record, such as Weights & Biases."""

    def step(self, values: Mapping[str, float], step: int) -> None:
        """What was measured, by `PHASE/NAME`, in a step; steps are counted over all phases."""

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """A record that is not a step."""

    def close(self) -> None:
        """Called once, after the last record."""


class RunLog:
    """Writes what happens to the run directory and to the terminal.

    Args:
        directory: the run directory; None: nothing is written.
        log_every: steps between two progress lines and two TensorBoard points, which are means over those steps.
        first_step: number of steps, over all phases, that were done before; later TensorBoard points are dropped.
        stream: where the progress goes; one updating line if it is a terminal. None: standard output.
        peak_flops: operations a second that all devices together could do; None: unknown, and no utilisation is logged.
        sink: gets every record too; None: no other receiver.
        on_output_closed: called when nobody reads the stream any more (`| head`, a terminal that is gone); what is
            still written there is lost. None: that is an error.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        log_every: int,
        first_step: int = 0,
        stream: TextIO | None = None,
        peak_flops: float | None = None,
        sink: Sink | None = None,
        on_output_closed: Callable[[], None] | None = None,
    ) -> None:
        self.peak_flops = peak_flops
        self._sink = sink
        self._on_output_closed = on_output_closed
        self._file: LogFile | None = None
        self._board: TensorBoardFile | None = None
        if directory is not None:
            self._file = LogFile(directory / LOG)
            # Here: TensorBoard takes a third of a second that --help need not wait.
            from trainer.logging.tensorboard_file import TensorBoardFile

            self._board = TensorBoardFile(directory / TENSORBOARD, purge_step=first_step + 1)
        self._board_step = first_step
        self._stream = stream or sys.stdout
        self._log_every = log_every
        self._recent: deque[Step] = deque(maxlen=log_every)
        self._peak_memory_bytes: int | None = None
        self._line_open = False

    def message(self, sentence: str) -> None:
        """A line of its own on the terminal."""
        with self._shown():
            self._end_line()
            print(sentence, file=self._stream, flush=True)

    def event(self, name: str, **facts: Any) -> None:
        """A record in log.jsonl that is not a step."""
        self._write({"event": name, "time_s": time.time(), **facts})
        if self._sink is not None:
            self._sink.event(name, facts)

    def sync(self) -> None:
        """Return when log.jsonl would survive a power cut."""
        if self._file is not None:
            self._file.sync()

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether there is a progress line after so many steps of a phase."""
        return step % self._log_every == 0 or step == num_steps

    def step(self, step: Step) -> None:
        """Record a step; show it when it is due."""
        measured = {
            **step.values,
            "num_tokens": step.num_tokens,
            "num_images": step.num_images,
            "step_s": round(step.step_s, 6),
            "data_wait_s": round(step.data_wait_s, 6),
        }
        utilisation = self._utilisation([step])
        if utilisation is not None:
            measured["mfu"] = round(utilisation, 4)
        if step.peak_memory_bytes is not None:
            self._peak_memory_bytes = measured["peak_memory_bytes"] = step.peak_memory_bytes
        self._write({"phase": step.phase, "step": step.step, **measured})
        if self._recent and self._recent[-1].phase != step.phase:
            self._recent.clear()
        self._recent.append(step)
        self._board_step += 1
        if self._sink is not None:
            present = {f"{step.phase}/{name}": value for name, value in measured.items() if value is not None}
            self._sink.step(present, self._board_step)
        is_due = self.is_due(step.step, step.num_steps)
        if is_due or self._stream.isatty():
            means = self._means()
            with self._shown():
                self._show(step, means)
            if is_due and self._board is not None:
                self._board.add({f"{step.phase}/{name}": value for name, value in means.items()}, self._board_step)

    def close(self) -> None:
        """Finish the line, the log, the TensorBoard file and the sink."""
        with self._shown():
            self._end_line()
        if self._file is not None:
            self._file.close()
        if self._sink is not None:
            self._sink.close()
        if self._board is not None:
            self._board.close()

    @property
    def recent(self) -> list[Step]:
        """The last steps of the phase, at most `log_every`."""
        return list(self._recent)

    def _means(self) -> dict[str, float]:
        """Means over the steps since the last progress line; the rates are sums over seconds."""
        means = {}
        for name in dict.fromkeys(name for step in self._recent for name in step.values):
            present = [value for step in self._recent if (value := step.values.get(name)) is not None]
            if present:
                means[name] = sum(present) / len(present)
        seconds = sum(step.step_s for step in self._recent)
        means["tokens_per_s"] = sum(step.num_tokens for step in self._recent) / seconds
        means["images_per_s"] = sum(step.num_images for step in self._recent) / seconds
        means["data_wait_share"] = sum(step.data_wait_s for step in self._recent) / seconds
        means["step_s"] = seconds / len(self._recent)
        utilisation = self._utilisation(self._recent)
        if utilisation is not None:
            means["mfu"] = utilisation
        if self._peak_memory_bytes is not None:
            means["peak_memory_gb"] = self._peak_memory_bytes / 1e9
        return means

    def _utilisation(self, steps: Collection[Step]) -> float | None:
        """The share of the devices' operations that were the model's."""
        flops = [step.flops for step in steps if step.flops is not None]
        if self.peak_flops is None or len(flops) < len(steps):
            return None
        return sum(flops) / (self.peak_flops * sum(step.step_s for step in steps))

    def _show(self, step: Step, means: Mapping[str, float]) -> None:
        """On a terminal one line that is renewed; else whole lines, when they are due, for files and `torchrun`. tqdm
        writes carriage returns there too, and has no means over several steps."""
        if self._stream.isatty():
            line = progress_line(step, means, max_length=shutil.get_terminal_size().columns - 1)
            self._stream.write(f"\r{line}\x1b[K")  # the escape clears what a longer line left behind
            self._stream.flush()
            self._line_open = True
        else:
            print(progress_line(step, means), file=self._stream, flush=True)

    def _end_line(self) -> None:
        if self._line_open:
            self._stream.write("\n")
            self._line_open = False

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """What the block shows on the stream is lost where nobody reads it."""
        try:
            yield
        except (OutputClosed, OSError) as error:
            is_closed = isinstance(error, OutputClosed) or is_unusable(error)
            if self._on_output_closed is None or not is_closed:
                raise
            self._on_output_closed()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.append(record)


def progress_line(step: Step, means: Mapping[str, float], max_length: int | None = None) -> str:
    """`main 120/2400  loss 6.5  text 2.31  image 0.412  lr 9.8e-04  3210 tokens/s  41 images/s  2% data wait  38% MFU
    61.2 GB  5:32 left`, in one line; the last parts but the time left go where they are too long for `max_length`."""
    parts = [f"{step.phase} {step.step}/{step.num_steps}"]
    losses = [name for name in means if name.startswith("loss") and "/" not in name]
    parts += [f"{name.removeprefix('loss_')} {means[name]:.4g}" for name in losses]
    parts += [f"{name} {means[name]:.3f}" for name in means if name.startswith("accuracy")]
    parts += [f"lr {means['lr']:.1e}"]
    if means["tokens_per_s"]:
        parts += [f"{means['tokens_per_s']:.0f} tokens/s"]
    parts += [f"{means['images_per_s']:.0f} images/s", f"{means['data_wait_share']:.0%} data wait"]
    if "mfu" in means:
        parts += [f"{means['mfu']:.0%} MFU"]
    if "peak_memory_gb" in means:
        parts += [f"{means['peak_memory_gb']:.1f} GB"]
    parts += [time_left(round((step.num_steps - step.step) * means["step_s"]))]
    while max_length is not None and len("  ".join(parts)) > max_length and len(parts) > 2:
        del parts[-2]
    return "  ".join(parts)
