"""The errors that a command tells in one sentence, without a traceback."""

from __future__ import annotations


class UsageError(ValueError):
    """Invalid user input: an option, a file or a directory. Printed without a traceback; exit code 2."""


class NonFiniteError(FloatingPointError):
    """Gradients of several steps in a row were infinite or not a number; no weight was changed by them. Exit code 1."""


class OutOfMemoryError(RuntimeError):
    """The memory of the device is used up. Exit code 1."""


class UnusableDataError(ValueError):
    """More of the data is broken than the settings allow, or their rules leave nothing of it. Exit code 1."""


class RendezvousError(RuntimeError):
    """Not all processes of the run have come. Exit code 4."""


def require(holds: bool, sentence: str) -> None:
    """Raise UsageError with the sentence unless the condition holds."""
    if not holds:
        raise UsageError(sentence)
