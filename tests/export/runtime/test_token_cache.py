"""How large a cache has to be; `test_session.py` has the caches at work."""

import pytest
import torch

from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors
from export.runtime.token_cache import LEAST_CAPACITY, capacity_for, room_for

PAST = {"past_key_0": Port(torch.float32, ("batch", 2, "past", 4))}
FIXED = {"past_key_0": Port(torch.float32, ("batch", 2, 100, 4))}


class LanguageModel(ComponentRunner):
    """Of which only the ports count."""

    def __init__(self, inputs: dict[str, Port], *, in_place: bool, most_rows: int | None = None) -> None:
        name = "present_key_0" if in_place else "new_key_0"
        super().__init__("llm", inputs, {name: inputs["past_key_0"]}, torch.device("cpu"))
        self.most_rows = most_rows

    def most(self, axis: str) -> int | None:
        return self.most_rows if axis == "past" else None

    def run(self, inputs: Tensors) -> Tensors:
        raise AssertionError("nobody calls it here")


def test_a_capacity_is_a_power_of_two_and_no_more_than_an_engine_takes() -> None:
    anything = LanguageModel(PAST, in_place=False)
    assert [capacity_for(anything, rows) for rows in (0, 64, 65)] == [LEAST_CAPACITY, 64, 128]
    engine = LanguageModel(PAST, in_place=False, most_rows=100)
    assert [capacity_for(engine, rows) for rows in (0, 64, 65, 100)] == [64, 64, 100, 100]
    with pytest.raises(ValueError, match=r"need 101 rows .* keeps 100\. Build it with a larger --max-past"):
        capacity_for(engine, 101)


def test_a_fixed_capacity_is_the_only_one() -> None:
    native = LanguageModel(FIXED, in_place=True)
    assert [capacity_for(native, rows) for rows in (0, 100)] == [100, 100]
    with pytest.raises(ValueError, match=r"need 101 rows .* keeps 100\. Build it with a larger --max-past"):
        capacity_for(native, 101)


def test_what_is_written_in_place_writes_padding_too() -> None:
    before, counts = [50, 3], [0, 20]
    assert room_for(LanguageModel(PAST, in_place=False), before, counts) == 50
    assert room_for(LanguageModel(PAST, in_place=True), before, counts) == 70
