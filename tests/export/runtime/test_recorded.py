from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from export.runtime import Session
from export.runtime.recorded import Recorded
from models import MMInterleaved
from models.denoising_options import Denoising

ASKS_THE_GPU = {"_local_scalar_dense", "nonzero", "lift_fresh", "lift_fresh_copy", "unique", "masked_select"}
"""Operators that wait for a result or copy from the CPU: a CUDA graph cannot hold them."""


class Names(TorchDispatchMode):
    """Of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.seen.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("step", ["decode", "denoise"])
def test_steps_ask_the_gpu_for_nothing(model: MMInterleaved, step: str) -> None:
    state = Session.of(model, device="cpu").begin_generation(1)
    state.read([[[1, 5], torch.rand(3, 32, 32)]])
    denoising = Denoising(num_inference_steps=1)
    list(state.draw([0], [0], denoising))
    memory = state.memory
    recorded = memory.cache(1, 64).step if step == "decode" else memory.drawing(1, denoising.num_predictions).step
    with Names() as names:
        recorded.function()
    assert "mmfs_attention" in " ".join(names.seen), "it is the real step"
    assert not names.seen & ASKS_THE_GPU


def test_elsewhere_the_function_runs() -> None:
    count = torch.zeros(1)

    def function() -> None:
        count.add_(1)

    step = Recorded(function, [count], torch.device("cpu"))
    for number in (1, 2):
        step()
        assert count.item() == number


@pytest.mark.gpu
def test_a_recording_does_what_the_function_does_once_for_each_call() -> None:
    count, double = torch.zeros(1, device="cuda"), torch.zeros(1, device="cuda")

    def function() -> None:
        count.add_(1)
        double.copy_(2 * count)

    step = Recorded(function, [count], torch.device("cuda"))
    for number in (1, 2, 3):
        step()
        assert (count.item(), double.item()) == (number, 2 * number)
    step.forget()
    step()
    assert count.item() == 4
