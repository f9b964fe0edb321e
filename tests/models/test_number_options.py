"""Numbers as callers give them."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from models.number_options import real_number, whole_number

NO_WHOLE_NUMBERS = [True, np.True_, 2.0, 2.5, np.float32(2), math.nan, math.inf, "2", None, [2], np.array([2]), b"2"]
NO_NUMBERS = [True, np.True_, math.nan, math.inf, -math.inf, np.float32("nan"), 10**400, "2", None, [2.0], 1j]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)], ids=repr)
def test_whole_numbers_of_any_library(value: Any) -> None:
    number = whole_number("n", value, least=0)
    assert (type(number), number) == (int, 3)


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=repr)
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^n is .*; expected a whole number of at least 0"):
        whole_number("n", value, least=0)


def test_whole_numbers_have_a_range() -> None:
    assert whole_number("n", 2**70, least=0) == 2**70
    for value in (-1, 6, 10**5000):
        with pytest.raises(ValueError, match=r"^n is (-1|6|a number of 16610 bits); expected .* from 0 to 5"):
            whole_number("n", value, least=0, most=5)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5)], ids=repr)
def test_numbers_of_any_library(value: Any) -> None:
    number = real_number("x", value, above=0, most=1)
    assert (type(number), number) == (float, 0.5)
    assert real_number("x", np.int32(1)) == 1


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:20])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^x is .*; expected a finite number.$"):
        real_number("x", value)


def test_numbers_have_a_range() -> None:
    for value in (0, -1, 1.1):
        with pytest.raises(ValueError, match="expected a finite number of more than 0 and at most 1"):
            real_number("x", value, above=0, most=1)
    with pytest.raises(ValueError, match="x is -1; expected a finite number of at least 0"):
        real_number("x", -1, least=0)
