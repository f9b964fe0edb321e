"""Layers that are compiled one by one: losses, gradients and graphs of batches of several shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from models import MMInterleaved
from models.activation_checkpointing import enable_activation_checkpointing
from models.compiled_components import compile_components
from models.component_names import CheckpointedComponent, CompiledComponent
from models.lora import add_lora
from models.lora_config import LoraConfig
from numerics import FLOAT32_ROUNDING, assert_equal_gradients
from rows import pack_rows
from trainer.step.accumulate import Chunks, accumulate
from trainer.step.compilation import Compilation

# The compiler itself looks there.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

BATCHES = [
    [[["image", *range(9, 40), "draw", 11, "draw"]], [[9, 10], ["image", 12, "draw"]]],
    [[["image", "image", *range(9, 40), "draw", 11, "draw", "draw"]], [[9, 10], ["image", 12, "draw"]]],
    [[[*range(9, 40), "draw"]], [[9, 10]]],
    [[["image", *range(9, 20), "image", 13, "draw", "draw", "draw"]], [["image", 12, "draw", "draw"]]],
]
"""Rows with 5, 7, 1 and 7 images, of which 3, 4, 1 and 5 are drawn."""


@pytest.fixture
def compiler() -> Iterator[None]:
    """As a training sets it, with nothing that an earlier test compiled."""
    torch._dynamo.reset()
    counters.clear()
    with Compilation().watched():
        yield
    torch._dynamo.reset()


def losses_and_gradients(model: MMInterleaved, rows: list[list[list[str | int]]]) -> tuple[float, dict[str, Tensor]]:
    """Of one micro-batch of a step, as the trainer computes it, two drawn images at a time."""
    model.train().zero_grad()
    batch = pack_rows(rows)
    losses = accumulate(model, batch, num_targets=40, num_drawn=4, chunks=Chunks(images=2, tokens=16))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(losses.text.sum() + losses.image.sum()), gradients


@pytest.mark.parametrize(
    ("components", "checkpointed", "lora", "most_graphs"),
    [
        pytest.param(("language_model",), ("language_model",), False, 6, id="recomputed"),
        pytest.param(get_args(CompiledComponent), (), False, 40, id="all"),
        pytest.param(get_args(CompiledComponent), get_args(CheckpointedComponent), True, 40, id="all-with-lora"),
    ],
)
@pytest.mark.slow
def test_batches_of_several_shapes_have_the_same_losses_and_gradients(
    model: MMInterleaved,
    compiler: None,
    components: tuple[CompiledComponent, ...],
    checkpointed: tuple[CheckpointedComponent, ...],
    lora: bool,
    most_graphs: int,
) -> None:
    """Of every parameter; and the second time, no shape needs a graph of its own any more. A layer's code has one for
    the first number of images, one for any, one for a single image, each with MMFS and without."""
    if lora:
        pytest.importorskip("peft")
        add_lora(model, LoraConfig(rank=2))
    enable_activation_checkpointing(model, checkpointed)
    expected = [losses_and_gradients(model, rows) for rows in BATCHES]
    compile_components(model, components, backend="eager")
    numbers = []
    for _ in range(2):
        for rows, (loss, gradients) in zip(BATCHES, expected, strict=True):
            again, compiled = losses_and_gradients(model, rows)
            assert again == pytest.approx(loss, rel=FLOAT32_ROUNDING)
            assert_equal_gradients(compiled, gradients)
        numbers.append(counters["stats"]["unique_graphs"])
    assert 0 < numbers[0] <= most_graphs
    assert numbers[1] == numbers[0], "graphs after the first and after the second time"


def test_an_unknown_component_is_refused(model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match="no component 'vae' to compile; expected some of vision_encoder, language"):
        compile_components(model, ["vae"])  # type: ignore[list-item]
