"""How large a cache has to be; `test_session.py` has the caches at work."""

import pytest
import torch

from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors
from export.runtime.token_cache import LEAST_CAPACITY, TokenCache, capacity_for, room_for
from export.runtime.value_pool import ValuePool

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


class Recording(LanguageModel):
    """Its answers are zeros; it keeps how many rows of the past each call got."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__(PAST, in_place=in_place)
        self.inputs = {"inputs_embeds": Port(torch.float32, ("batch", "tokens", 3)), **PAST}
        new = "past" if in_place else "tokens"
        self.outputs = {
            "logits": Port(torch.float32, ("batch", 1, 5)),
            "hidden_states": Port(torch.float32, ("batch", "tokens", 3)),
            **{name: Port(torch.float32, ("batch", 2, new, 4)) for name in self.outputs},
        }
        self.num_past: list[int] = []

    def run(self, inputs: Tensors) -> Tensors:
        self.num_past.append(inputs["past_key_0"].shape[2])
        return {name: tensor.zero_() for name, tensor in self.empty_outputs(inputs).items()}


@pytest.mark.parametrize("in_place", [False, True])
def test_many_tokens_are_read_without_the_rows_of_the_cache_that_hold_nothing(in_place: bool) -> None:
    llm = Recording(in_place=in_place)
    pool = ValuePool(None, {}, torch.device("cpu"), None)
    cache = TokenCache(llm, torch.zeros(7, 3), pool, num_rows=2, capacity=64)
    visible = torch.zeros(2, 5, 2, dtype=torch.int64)
    cache.add(torch.zeros(2, 5, 3), [0, 0], [5, 2], visible)
    cache.add(torch.zeros(2, 5, 3), [5, 2], [1, 5], visible)
    cache.add_one([1, 2], visible[:, :1])
    assert llm.num_past == ([64, 64, 64] if in_place else [1, 5, 64]), "a single token reads what has one address"
