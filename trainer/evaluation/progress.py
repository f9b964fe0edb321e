"""How far an evaluation is, in one line.

Not tqdm: an image takes many times as long as a text, and the time left is known only from each family's own pace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sized

Progress = Callable[[str], None]
"""Gets a line after each answer."""


def progress_line(
    asked: Mapping[str, Sized], written: Mapping[str, Sized], seconds: Mapping[str, float], num_workers: int
) -> str:
    """`evaluation 12/60 documents  0:48 left`; the time left is known once every family has an answer.

    Args:
        asked: each family's documents.
        written: the answers to them so far.
        seconds: how long those took.
        num_workers: how many are answered at a time.
    """
    done, in_all = sum(map(len, written.values())), sum(map(len, asked.values()))
    if all(map(len, written.values())):
        left_s = sum(seconds[task] / len(written[task]) * (len(asked[task]) - len(written[task])) for task in asked)
        left_s /= num_workers
        return f"evaluation {done}/{in_all} documents  {int(left_s) // 60}:{int(left_s) % 60:02} left"
    return f"evaluation {done}/{in_all} documents"


def show_progress(line: str) -> None:
    """One line on the terminal that renews itself; nothing where there is no terminal but the last one."""
    if sys.stderr.isatty():
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
