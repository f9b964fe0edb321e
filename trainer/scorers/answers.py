"""What counts as the answer in a text that a model wrote."""

from __future__ import annotations

import re

_RELEASED_STARTS = ("is ", "are ", "a ", "an ", "the ")
_RELEASED_ENDS = (" of", " or ", " and ")


def short_answer(text: str) -> str:
    """The first line, without a full stop at its end."""
    lines = text.strip().splitlines()
    return lines[0].strip().removesuffix(".").strip() if lines else ""


def exact_answer(text: str) -> str:
    """As :func:`short_answer`, in lower case: GQA's program compares texts as they are, and its answers are so."""
    return short_answer(text).lower()


def first_sentence(text: str) -> str:
    """A caption up to its first full stop, as the released code scores COCO's."""
    return text.partition(".")[0].strip()


def one_line(text: str) -> str:
    """A caption as it is, in one line."""
    return " ".join(text.split())


def released_answer(text: str) -> str:
    """The answer by the rules of the released MM-Interleaved code, with which the paper's zero-shot figures were made.

    They cut inside words ("pizza slice" becomes "slice", "3.5" becomes "3"), so they are for comparison only.
    """
    answer = re.split(r"[.,!\n]", text.replace('"', ""), maxsplit=1)[0].strip().lower()
    for start in _RELEASED_STARTS:
        parts = answer.split(start)
        if len(parts) > 1:
            answer = parts[1]
    for end in _RELEASED_ENDS:
        answer = answer.split(end)[0]
    return answer.strip()
