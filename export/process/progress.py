"""The time left of a stage, from the last times of its components, and of reading files, from their sizes.

The progress of a stage is a line each, which is as readable in a log as on a terminal. Components differ a thousandfold
in size, so a bar with equal steps (tqdm) would estimate the time left wrongly.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.process.child_process import INTERVAL_S
from models.atomic_files import write_atomically

SECONDS_FILE = "seconds.json"
"""By stage and component."""

Log = Callable[[str], None]
"""Takes a line of progress."""

LINE = re.compile(r"\[(\d+)/(\d+)\] (.+?)(?: \.\.\.|:|$)")


class Progress:
    """Estimates the time that a stage still takes from the lines that it prints.

    Args:
        stage: which.
        seconds: what each component took the last time; may be empty.
    """

    def __init__(self, stage: str, seconds: dict[str, float]) -> None:
        self.stage = stage
        self.before = seconds
        self.taken: dict[str, float] = {}
        self.name: str | None = None
        self.total = 0
        self._since = time.monotonic()

    @classmethod
    def of(cls, stage: str, folders: Sequence[Path]) -> Progress:
        """With the times of the first folder that has some for this stage."""
        for folder in folders:
            if seconds := _times(folder).get(stage):
                return cls(stage, seconds)
        return cls(stage, {})

    def on_line(self, line: str) -> None:
        """A line such as "[2/7] llm ..." starts a component and ends the one before it."""
        if (found := LINE.match(line)) is not None:
            self._finish()
            self.total, self.name = int(found[2]), found[3]

    def left(self) -> str:
        """Text to append to a line; empty if nothing is known, or the stage takes longer than the last time."""
        here = time.monotonic() - self._since
        if self.before:
            rest = sum(seconds for name, seconds in self.before.items() if name not in self.taken)
            rest -= min(here, self.before.get(self.name or "", 0.0))
        elif self.taken:
            mean = sum(self.taken.values()) / len(self.taken)
            rest = max(0.0, (self.total - len(self.taken)) * mean - here)
        else:
            return ""
        return f"; about {rest:.0f} s left" if rest >= 1 else ""

    def save(self, folder: Path) -> None:
        """Save the times; a component that was already finished keeps its longer time."""
        self._finish()
        longest = {name: max(seconds, self.before.get(name, 0.0)) for name, seconds in self.taken.items()}
        times = {**_times(folder), self.stage: longest}
        write_atomically(folder / SECONDS_FILE, json.dumps(times, indent=1) + "\n")

    def _finish(self) -> None:
        now = time.monotonic()
        if self.name is not None:
            self.taken[self.name] = round(now - self._since, 1)
        self._since = now


@dataclass
class RemainingBuildTime:
    """How long the engines that are not built yet may take."""

    expected_s: dict[str, float | None]
    """By component; None: never built here."""

    @classmethod
    def of(cls, times: Mapping[str, Sequence[float]]) -> RemainingBuildTime:
        """From the times of earlier builds by component, with any options."""
        return cls({name: max(known) if known else None for name, known in times.items()})

    def finish(self, name: str) -> None:
        """This one needs no more time."""
        del self.expected_s[name]

    def left(self, name: str, seconds: float) -> str:
        """In words, `seconds` into the build of `name`."""
        known = [expected for expected in self.expected_s.values() if expected is not None]
        num_unknown = len(self.expected_s) - len(known)
        rest = sum(known) - min(seconds, self.expected_s[name] or 0.0)
        known_part = f"about {rest:.0f} s left" if rest >= 1 else ""
        engines = "an engine" if num_unknown == 1 else f"{num_unknown} engines"
        unknown_part = f"{engines} of unknown duration, never built here before" if num_unknown else ""
        return " and ".join(filter(None, [known_part, unknown_part])) or "longer than the last time"


class ReadProgress:
    """Reports progress while files are read to see whether they have changed; short work is not reported.

    Args:
        what: what is checked, in words.
        files: the files.
        log: takes a line every `interval_s`.
        interval_s: seconds.
    """

    def __init__(self, what: str, files: Iterable[Path], log: Log, *, interval_s: float = INTERVAL_S) -> None:
        self.what, self.log, self.interval_s = what, log, interval_s
        self.total = sum(file.stat().st_size for file in files if file.is_file())
        self.read = 0
        self._start = self._logged = time.monotonic()

    def __call__(self, num_bytes: int) -> None:
        """Count bytes that were read."""
        self.read += num_bytes
        now = time.monotonic()
        if now - self._logged < self.interval_s:
            return
        self._logged, seconds = now, now - self._start
        rest = seconds * (self.total - self.read) / self.read
        self.log(
            f"      {seconds:.0f} s, checking {self.what}: {self.read / 1e9:.1f} of {self.total / 1e9:.1f} GB; "
            f"about {rest:.0f} s left"
        )


def _times(folder: Path) -> dict[str, dict[str, float]]:
    file = folder / SECONDS_FILE
    return json.loads(file.read_text()) if file.is_file() else {}
