"""Numbers that a caller gives as options: Python's and numpy's, checked once for what they are."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from models.json_files import cut


def whole_number(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """A whole number as an int.

    Args:
        name: of the option, for the message.
        value: an int or one of numpy's; neither a bool nor a float, also where it is whole.
        least: allowed.
        most: allowed; None: any number.

    Raises:
        ValueError: another type, or outside of the range.
    """
    expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {_shown(value)}; expected {expected}.") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name} is {_shown(number)}; expected {expected}.")
    return number


def real_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> float:
    """A finite number as an int or a float.

    Args:
        name: of the option, for the message.
        value: an int, a float, or one of numpy's; not a bool.
        least: allowed.
        above: all of this and below is not allowed.
        most: allowed.

    Raises:
        ValueError: another type, not finite, or outside of the range.
    """
    bounds = {"at least": least, "more than": above, "at most": most}
    limits = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        number: float = math.nan if not is_number else value if isinstance(value, int) else float(value)
        is_allowed = (
            math.isfinite(float(number))
            and (least is None or number >= least)
            and (above is None or number > above)
            and (most is None or number <= most)
        )
    except OverflowError:  # an int beyond all floats
        is_allowed = False
    if not is_allowed:
        raise ValueError(f"{name} is {_shown(value)}; expected a finite number{f' of {limits}' if limits else ''}.")
    return number


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 1 << 200:
        return f"a number of {value.bit_length()} bits"
    return cut(ascii(value))
