"""Bytes on one GPU: a real step's, and how GPUs share them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from live_bytes import LiveBytes
from models import MMInterleaved
from models.lora_config import LoraConfig
from trainer.config import TrainConfig
from trainer.cost.estimate import batch_shape
from trainer.cost.gpu_memory import GB, Machine, count_parameters, memory_bytes, sample_bytes
from trainer.cost.step_cost import StepCost, measure, shell
from trainer.data.stream import Stream
from trainer.errors import UsageError
from trainer.recipes import RECIPES
from trainer.step.accumulate import Chunks, accumulate
from trainer.step.ema import WeightEMA
from trainer.step.optimizer import make_optimizer
from trainer.system_config import MemoryConfig, ParallelConfig


@pytest.fixture
def tiny() -> TrainConfig:
    return RECIPES["tiny"]()


@pytest.mark.parametrize(("image_chunk", "num_micro_batches"), [(0, 1), (2, 1), (2, 2)])
def test_the_memory_of_a_step_is_what_a_real_one_has_at_most(image_chunk: int, num_micro_batches: int) -> None:
    config = replace(RECIPES["toy_refine"](), memory=MemoryConfig(image_chunk=image_chunk))
    shape = batch_shape(config, 2)
    model = MMInterleaved(config.model).train()
    model.visual_tokenizer.adapter.requires_grad_(False)
    optimizer, average = make_optimizer(model, config.optim), WeightEMA(model, config.ema_decay)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, range(2))

    def step() -> None:
        for _ in range(num_micro_batches):
            chunks = Chunks(images=image_chunk or None)
            accumulate(model, batch, num_targets=shape.num_targets, num_drawn=shape.num_drawn, chunks=chunks)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update()

    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # which makes its state
    optimizer.zero_grad()
    states = [state for states in optimizer.state.values() for state in states.values()]
    there = sum(tensor.nbytes for tensor in [*model.parameters(), *states, *average.tensors().values()])
    with LiveBytes() as live:
        step()
    shell_of_it = shell(config)
    cost = measure(shell_of_it, config, shape)
    kinds = memory_bytes(
        *(config, Machine(1, GB), count_parameters(shell_of_it), cost, cost), is_alone=num_micro_batches == 1
    )
    assert sum(kinds.values()) - kinds["gradients"] - kinds["kept for the backward"] == pytest.approx(there, rel=1e-3)
    assert kinds["gradients"] + kinds["kept for the backward"] == pytest.approx(live.peak, rel=0.15)


def test_parameters_are_those_of_the_model(tiny: TrainConfig) -> None:
    config = replace(tiny, frozen=["vision_encoder", "vae"], freeze_encoder=True)
    counted = count_parameters(shell(config))
    model = MMInterleaved(config.model)
    total = sum(p.numel() for p in model.parameters())
    assert counted.num_trainable + sum(counted.frozen.values()) == total
    adapter = sum(p.numel() for p in model.visual_tokenizer.adapter.parameters())
    assert counted.frozen["vision encoder"] + counted.frozen["ViT-Adapter"] == adapter
    assert counted.trainable["vision encoder"] == counted.trainable["ViT-Adapter"] == 0
    assert counted.frozen_bytes == 4 * sum(counted.frozen.values())


def test_adapters_of_a_frozen_language_model_are_trained(tiny: TrainConfig) -> None:
    pytest.importorskip("peft")
    config = replace(tiny, frozen=["language_model"], lora=LoraConfig(rank=2))
    counted = count_parameters(shell(config))
    assert 0 < counted.trainable["language model"] < 0.2 * counted.frozen["language model"]


def test_memory_is_shared_by_the_gpus(tiny: TrainConfig) -> None:
    parameters = count_parameters(shell(tiny))
    cost = StepCost(kept_bytes={"encoder": 7}, forward_flops={"encoder": 1}, backward_flops={})
    weights = 4.0 * parameters.num_trainable

    def on(config: TrainConfig, num_gpus: int) -> dict[str, float]:
        return memory_bytes(config, Machine(num_gpus, 80 * GB), parameters, cost, cost, is_alone=False)

    one, eight, copies = on(tiny, 1), on(tiny, 8), on(replace(tiny, parallel=ParallelConfig(shard_size=1)), 8)
    assert (one["AdamW"], eight["AdamW"], copies["AdamW"]) == (2 * weights, weights / 4, 2 * weights)
    assert (one["gathered for a step"], eight["gathered for a step"]) == (0, weights)
    assert one["average of the weights"] == weights
    assert on(replace(tiny, ema_decay=0.0), 1)["average of the weights"] == 0
    assert (one["gradients"], one["kept for the backward"]) == (weights, 7)
    assert eight["gradients"] == 2 * weights + weights / 8  # and what is sent and received


def test_layers_are_shared_one_by_one_if_asked_for(tiny: TrainConfig) -> None:
    config = replace(tiny, frozen=["vision_encoder"])
    model = shell(config)
    model.language_model.decoder.layers[0].mlp.requires_grad_(False)
    parameters = count_parameters(model)
    cost = StepCost(kept_bytes={"encoder": 7}, forward_flops={}, backward_flops={})
    apart = replace(config, parallel=ParallelConfig(shard_layers=True))
    apart_in_pairs = replace(config, parallel=ParallelConfig(shard_layers=True, shard_size=2))
    whole, one, four, copies = (
        memory_bytes(setting, Machine(num_gpus, 80 * GB), parameters, cost, cost, is_alone=False)
        for setting, num_gpus in ((config, 4), (apart, 1), (apart, 4), (apart_in_pairs, 4))
    )
    layers = model.language_model.decoder.layers
    in_layer = sum(p.nbytes for p in layers[1].parameters())
    frozen = sum(p.nbytes for p in layers[0].mlp.parameters())
    trained, outside = in_layer * len(layers) - frozen, 4.0 * parameters.num_trainable
    outside -= trained
    assert one == memory_bytes(config, Machine(1, 80 * GB), parameters, cost, cost, is_alone=False)
    assert whole["frozen weights"] - four["frozen weights"] == 0.75 * frozen
    assert (whole["gathered for a step"], four["gathered for a step"]) == (outside + trained, outside)
    assert (whole["gathered layer by layer"], four["gathered layer by layer"]) == (0, 3 * in_layer)
    assert four["trained weights, float32"] == whole["trained weights, float32"] == (outside + trained) / 4
    assert four["gradients"] == max(2.25 * outside, outside + 2 * in_layer) + trained / 4
    assert copies["gradients"] == max(2.5 * outside, outside + 2 * in_layer) + trained  # two buffers of a half


def test_layers_that_are_shared_one_by_one_are_whole_for_samples(tiny: TrainConfig) -> None:
    model = shell(replace(tiny, frozen=["vision_encoder"]))
    layers = model.language_model.decoder.layers
    layers[0].requires_grad_(False)
    every = sum(p.nbytes for p in model.parameters())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    frozen_apart = sum(p.nbytes for p in layers[0].parameters())
    config, machine, parameters = (
        replace(tiny, parallel=ParallelConfig(shard_layers=True)),
        Machine(4, GB),
        count_parameters(model),
    )
    without_average = replace(config, ema_decay=0.0)
    assert sample_bytes(without_average, machine, parameters) == every + (frozen_apart + 3 * trained) / 4
    assert sample_bytes(replace(config, ema_decay=0.9), machine, parameters) == every + (frozen_apart + 5 * trained) / 4


@pytest.mark.parametrize("text", ["8", "0x80", "8x0", "8x80GB", "eight"])
def test_a_machine_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected GPUs and the GB of each, as in 8x80"):
        Machine.parse(text)
