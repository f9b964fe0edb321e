"""What a step computes and keeps, on tensors without data, against real steps."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from models import MMInterleaved, MMInterleavedConfig
from models.activation_checkpointing import enable_activation_checkpointing
from models.component_names import CheckpointedComponent
from models.frozen import PAPER_FROZEN, freeze
from trainer.config import TrainConfig
from trainer.cost.estimate import batch_shape
from trainer.cost.gpu_memory import count_parameters
from trainer.cost.saved_tensors import SavedTensors
from trainer.cost.step_cost import BatchShape, Operations, measure, shell
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.stream import Stream
from trainer.recipes import RECIPES
from trainer.step.accumulate import Chunks, accumulate
from trainer.system_config import MemoryConfig

ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""By shapes; PyTorch's counter knows the fused attention of GPUs alone."""

SHAPE = BatchShape(num_rows=2, row_tokens=96, num_images=5, num_drawn=3, num_targets=60, context_tokens=30)


@pytest.fixture
def tiny() -> TrainConfig:
    return RECIPES["tiny"]()


@pytest.mark.parametrize("image_chunk", [0, 2])
def test_what_is_kept_for_the_backward_is_what_a_real_step_keeps(image_chunk: int) -> None:
    config = replace(RECIPES["toy_refine"](), memory=MemoryConfig(image_chunk=image_chunk))
    shape = batch_shape(config, 2)
    assert shape.num_drawn > 2
    model = MMInterleaved(config.model).train()
    if config.freeze_encoder:
        model.visual_tokenizer.adapter.requires_grad_(False)
    batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, range(2))
    assert (len(batch.pixel_values), len(batch.drawn)) == (shape.num_images, shape.num_drawn)
    saved = SavedTensors([*model.parameters(), *model.buffers()])
    with saved.counted():
        chunks = Chunks(images=image_chunk or None)
        accumulate(model, batch, num_targets=shape.num_targets, num_drawn=shape.num_drawn, chunks=chunks)
    estimated = sum(measure(shell(config), config, shape).kept_bytes.values())
    assert estimated == pytest.approx(saved.peak_bytes, rel=0.15)  # measured: 10 and 6 % too much


def test_the_operations_of_a_language_model_are_two_for_each_parameter_and_token(tiny: TrainConfig) -> None:
    """And twice as many in the backward, half of that where it is frozen."""
    model = shell(tiny)
    cost = measure(model, tiny, SHAPE)
    layers = count_parameters(model).trainable
    tokens = SHAPE.num_rows * SHAPE.row_tokens
    transformer = tiny.model.language_model.transformer
    tables = 2 * transformer["vocab_size"] * transformer["hidden_size"]  # looked up, and the head, which is in logits
    at_least = 2 * tokens * (layers["language model"] - tables)
    assert at_least < cost.forward_flops["language_model"] < 2 * at_least  # with attention, MMFS and its values
    assert cost.forward_flops["logits"] == tables * SHAPE.num_targets
    forward = sum(cost.forward_flops.values())
    assert 2 * forward < cost.flops < 3.1 * forward  # the VAE has no backward, attention more than twice
    config = replace(tiny, frozen=list(PAPER_FROZEN))
    frozen = measure(shell(config), config, SHAPE)
    assert frozen.forward_flops == cost.forward_flops
    assert 1.5 * forward < frozen.flops < 0.95 * cost.flops


def test_the_operations_of_the_backward_are_known_from_the_forward() -> None:
    """Against PyTorch's counter, which sees the backward happen."""
    frozen, trained = nn.Conv2d(3, 8, 3, stride=2).requires_grad_(False), nn.Linear(8, 6)
    inner, outer = nn.Conv1d(6, 4, 1, bias=False), nn.Linear(4, 2).requires_grad_(False)

    def loss() -> Tensor:
        pixels = frozen(torch.randn(2, 3, 9, 9)).flatten(2).mT.flatten(0, 1)  # [32, 8]
        states = trained(pixels).unflatten(0, (2, 16))  # [2, 16, 6]
        states = F.scaled_dot_product_attention(*[states.unsqueeze(1)] * 3).squeeze(1)
        return outer(inner(states.mT).mT @ states[:, :4, :4]).sum()

    with Operations() as operations:
        loss()
    counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU)
    with counter:
        total = loss()
        forward = counter.get_total_flops()
        total.backward()
    assert operations.forward == forward > 0
    assert operations.backward == counter.get_total_flops() - forward


def test_the_operations_of_a_step_are_those_of_a_real_one(tiny: TrainConfig) -> None:
    config = replace(tiny, frozen=list(PAPER_FROZEN))
    shape = batch_shape(config, 2)
    model = MMInterleaved(config.model).train()
    freeze(model, config.frozen)
    batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, range(2))
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        accumulate(model, batch, num_targets=shape.num_targets, num_drawn=shape.num_drawn)
    assert measure(shell(config), config, shape).flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_attention_by_document_keeps_and_computes_what_a_real_step_does(tiny: TrainConfig) -> None:
    config = replace(tiny, memory=MemoryConfig(attention_by_document=True))
    shape = batch_shape(config, 2)
    assert shape.documents is not None
    assert sum(shape.documents) == 2 * shape.row_tokens
    model = MMInterleaved(config.model).train()
    model.language_model.enable_document_attention()
    batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, range(2))
    saved = SavedTensors([*model.parameters(), *model.buffers()])
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter, saved.counted():
        accumulate(model, batch, num_targets=shape.num_targets, num_drawn=shape.num_drawn)
    cost = measure(shell(config), config, shape)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert sum(cost.kept_bytes.values()) == pytest.approx(saved.peak_bytes, rel=0.15)


def test_no_mask_of_all_pairs_is_counted_for_long_rows(tiny: TrainConfig) -> None:
    tokens = 8192
    corpus = CorpusConfig({"any": SourceConfig("somewhere")}, num_rows=1, row_tokens=tokens)
    long = replace(tiny, corpus=corpus, encoder_pretraining=replace(tiny.encoder_pretraining, num_steps=0))
    shape = replace(batch_shape(long, 1), num_images=2, num_drawn=1)
    assert shape.documents == (tokens // 2, tokens // 2)
    by_document = measure(shell(long), long, shape)
    config = replace(long, memory=MemoryConfig(attention_by_document=False))
    masked = measure(shell(config), config, replace(shape, documents=None))
    mask_bytes = tokens**2
    assert masked.kept_bytes["language_model"] - by_document.kept_bytes["language_model"] > 0.9 * mask_bytes
    assert by_document.forward_flops["language_model"] < masked.forward_flops["language_model"]


@pytest.mark.slow
def test_chunks_recomputation_and_half_precision_keep_less(tiny: TrainConfig) -> None:
    model = shell(tiny)
    plain = measure(model, tiny, SHAPE)
    enable_activation_checkpointing(model, get_args(CheckpointedComponent))
    less = measure(model, tiny, SHAPE).kept_bytes
    assert all(less[part] < plain.kept_bytes[part] for part in ("encoder", "language_model", "image_decoder"))
    config = replace(tiny, memory=MemoryConfig(image_chunk=1, token_chunk=4))
    chunked = measure(shell(config), config, SHAPE)
    assert chunked.kept_bytes["image_decoder"] < 0.4 * plain.kept_bytes["image_decoder"]
    assert chunked.kept_bytes["logits"] < 0.5 * plain.kept_bytes["logits"]
    assert chunked.flops == pytest.approx(plain.flops, rel=0.05)  # but for the images' shares of the bank
    config = replace(tiny, precision="bfloat16")
    half = measure(shell(config), config, SHAPE)
    assert half.kept_bytes["language_model"] < 0.85 * plain.kept_bytes["language_model"]


def test_half_precision_is_that_of_a_step(tiny: TrainConfig) -> None:
    """Without autocast's cache, a weight that is used twice is kept twice."""
    config = replace(tiny, precision="bfloat16")
    model, caches = shell(config), []
    model.language_model.decoder.norm.register_forward_hook(lambda *_: caches.append(torch.is_autocast_cache_enabled()))
    measure(model, config, SHAPE)
    assert caches == [False]


def test_the_released_model_needs_no_weights() -> None:
    config = replace(RECIPES["paper_13b"](), model=MMInterleavedConfig.released_13b())
    model = shell(config)
    assert all(isinstance(parameter, FakeTensor) for parameter in model.parameters())
    assert count_parameters(model).trainable["MMFS in the U-Net"] > 50e6
