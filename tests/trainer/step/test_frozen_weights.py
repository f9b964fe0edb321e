"""Frozen matrices in float8: the same wherever they come from, a byte a number, saved as they are computed with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import processes
from models import MMInterleaved
from models.compiled_components import compile_components
from models.float8_linear import Float8Linear
from models.frozen import freeze
from models.lora import add_lora, tensors_to_save
from models.lora_config import LoraConfig
from models.safetensors_writer import LazyTensor
from models.tensor_files import WEIGHTS_FILE, read_tensors
from numerics import FLOAT32_ROUNDING
from rows import pack_rows
from trainer.config import TrainConfig
from trainer.cost.gpu_memory import count_parameters
from trainer.cost.step_cost import BatchShape, measure, shell
from trainer.errors import UsageError
from trainer.pretrain import main
from trainer.process.distributed import joined
from trainer.recipes import RECIPES
from trainer.starting_model import StartingModel, begin_model
from trainer.step.accumulate import accumulate
from trainer.step.frozen_weights import keep_frozen_in, keep_frozen_in_float8
from trainer.step.starting_weights import read_stored
from whole_runs import steps

RUN = (
    *("tiny", "--data.num_rows", "4", "--num_steps", "2", "--encoder_pretraining.num_steps", "0", "--num_workers", "0"),
    *("--frozen", "[language_model, vision_encoder]", "--precision", "bfloat16", "--float8", "frozen"),
)
ROWS = [[["image", 9, 10, "draw", 11, "draw"]], [[9, 10], ["image", 12, "draw"]]]


def float8_run() -> TrainConfig:
    tiny = RECIPES["tiny"]()
    return replace(
        tiny,
        frozen=["language_model", "vision_encoder"],
        precision="bfloat16",
        float8="frozen",
        encoder_pretraining=replace(tiny.encoder_pretraining, num_steps=0),
    )


def held(start: StartingModel) -> MMInterleaved:
    """As a run with one process has it in its first step."""
    keep_frozen_in(start.model, torch.bfloat16)
    keep_frozen_in_float8(start.model, start.stored)
    read_stored(start.model, torch.device("cpu"), start.stored)
    return start.model


def frozen_model(directory: Path) -> MMInterleaved:
    model = MMInterleaved.from_pretrained(directory).train()
    freeze(model, float8_run().frozen)
    return model


def gradients(model: MMInterleaved) -> Tensor:
    model.zero_grad()
    accumulate(model, pack_rows(ROWS), num_targets=9, num_drawn=3, dtype=torch.bfloat16)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def written(model: MMInterleaved) -> dict[str, Tensor]:
    """What `save_pretrained` writes."""
    tensors = tensors_to_save(model)
    return {name: (t.compute() if isinstance(t, LazyTensor) else t).clone() for name, t in tensors.items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_numbers_from_files_and_from_memory_are_rounded_alike(untrained: Path) -> None:
    with joined(torch.device("cpu")) as alone:
        start = begin_model(replace(float8_run(), init=str(untrained)), alone)
    assert all(parameter.is_meta for parameter in start.model.language_model.host.parameters())
    ours, theirs = held(start).state_dict(), held(StartingModel(frozen_model(untrained), {})).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert sum(name.endswith(".weight_scale") for name in ours) == 7 * 3 + 6 * 2, "of both networks' layers"


def test_gradients_differ_by_the_rounding_of_the_weights(untrained: Path) -> None:
    exact = frozen_model(untrained)
    expected = gradients(exact)
    halved = frozen_model(untrained)
    keep_frozen_in(halved, torch.bfloat16)
    in_bfloat16, in_float8 = gradients(halved), gradients(held(StartingModel(frozen_model(untrained), {})))
    assert in_float8.shape == expected.shape
    assert (
        relative_error(in_bfloat16, expected) < relative_error(in_float8, expected) < 0.05
    )  # measured: 0.0156, 0.0163


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler itself does it
@pytest.mark.usefixtures("compiler")
def test_compiled_layers_compute_the_same(untrained: Path) -> None:
    model = held(StartingModel(frozen_model(untrained), {}))
    expected = gradients(model)
    compile_components(model, ["vision_encoder", "language_model"], backend="eager")
    assert relative_error(gradients(model), expected) < FLOAT32_ROUNDING


def test_what_is_estimated_is_what_is_held(untrained: Path) -> None:
    config = float8_run()
    plain = replace(config, float8=None)
    bytes_held = sum(
        p.nbytes for p in held(StartingModel(frozen_model(untrained), {})).parameters() if not p.requires_grad
    )
    assert count_parameters(shell(config)).frozen_bytes == bytes_held
    assert bytes_held < 0.9 * count_parameters(shell(plain)).frozen_bytes  # most of a tiny model are its embeddings
    shape = BatchShape(num_rows=2, row_tokens=96, num_images=5, num_drawn=3, num_targets=60, context_tokens=30)
    ours, theirs = measure(shell(config), config, shape), measure(shell(plain), plain, shape)
    assert ours.flops == theirs.flops
    assert ours.kept_bytes["language_model"] == pytest.approx(theirs.kept_bytes["language_model"], rel=0.05)


@pytest.mark.parametrize("merge", [None, True, False])
def test_it_is_saved_as_it_was_before(untrained: Path, merge: bool | None) -> None:
    """Under the same names, with the numbers that were multiplied, and adapters as ever."""
    model = frozen_model(untrained)
    if merge is not None:
        pytest.importorskip("peft")
        add_lora(model, LoraConfig(rank=2, merge=merge))
    keep_frozen_in(model, torch.bfloat16)
    before = written(model)
    saved = written(held(StartingModel(model, {})))
    assert saved.keys() == before.keys()
    num_rounded = 0
    for name, tensor in saved.items():
        num_rounded += not torch.equal(tensor, before[name])
        torch.testing.assert_close(tensor, before[name], rtol=1 / 16, atol=1e-4, msg=name)
    assert num_rounded == 7 * 3 + 6 * 2
    assert sum(isinstance(layer, Float8Linear) for layer in model.modules()) == num_rounded


def test_it_does_not_come_on_the_way() -> None:
    tiny = RECIPES["tiny"]()
    with pytest.raises(UsageError, match=r"float8 is frozen, with \d+ steps of encoder_pretraining.*expected float8"):
        replace(tiny, float8="frozen", encoder_pretraining=replace(tiny.encoder_pretraining, num_steps=3))


def test_the_model_of_a_run_is_what_it_computed_with(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert main([*RUN, "--out", str(whole)]) == 0
    first = read_tensors(whole / "model" / WEIGHTS_FILE)
    again = tmp_path / "again"
    assert main([*RUN, "--init", str(whole / "model"), "--out", str(again)]) == 0
    for name, tensor in read_tensors(again / "model" / WEIGHTS_FILE).items():
        if name.startswith("language_model.host."):
            assert torch.equal(tensor, first[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("gather_dtype", ["float32", "bfloat16"])
def test_several_processes_hold_their_rows(tmp_path: Path, untrained: Path, gather_dtype: str) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    arguments = [*RUN, "--init", str(untrained)]
    assert main([*arguments, "--out", str(alone)]) == 0
    arguments += ["--parallel.shard_layers", "true", "--parallel.gather_dtype", gather_dtype, "--out", str(shared)]
    assert processes.run(partial(main, arguments), 2) == [0, 0]
    for ours, theirs in zip(steps(shared), steps(alone), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    frozen = [read_tensors(run / "model" / WEIGHTS_FILE) for run in (alone, shared)]
    assert frozen[0].keys() == frozen[1].keys()
    for name, tensor in frozen[0].items():
        if name.startswith("language_model.host."):
            assert torch.equal(frozen[1][name], tensor), name
