from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import MMInterleaved, MMInterleavedConfig
from models.frozen import PAPER_FROZEN
from models.lora import LoraConfig
from models.recompute import RecomputedPart
from trainer import pretrain
from trainer.accumulate import Chunks, accumulate
from trainer.config import TrainConfig, UsageError
from trainer.data.stream import Stream
from trainer.estimate import GB, Machine, batch_shape, count_parameters, estimate, memory_bytes
from trainer.recipes import RECIPES
from trainer.saved_tensors import SavedTensors
from trainer.step_cost import BatchShape, StepCost, measure, shell

ALL: tuple[RecomputedPart, ...] = ("vision", "language_model", "unet")


SHAPE = BatchShape(num_rows=2, row_tokens=96, num_images=5, num_drawn=3, num_targets=60, context_tokens=30)


@pytest.fixture
def tiny() -> TrainConfig:
    return RECIPES["tiny"]()


@pytest.mark.parametrize("images_at_once", [0, 2])
def test_what_is_kept_for_the_backward_is_what_a_real_step_keeps(images_at_once: int) -> None:
    config = replace(RECIPES["toy"](), images_at_once=images_at_once)
    shape = batch_shape(config, 2)
    assert shape.num_drawn > 2
    model = MMInterleaved(config.model).train()
    if config.freeze_encoder:
        model.visual_tokenizer.adapter.requires_grad_(False)
    batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, range(2))
    assert (len(batch.pixel_values), len(batch.drawn)) == (shape.num_images, shape.num_drawn)
    saved = SavedTensors([*model.parameters(), *model.buffers()])
    with saved.counted():
        chunks = Chunks(images=images_at_once or None)
        accumulate(model, batch, num_targets=shape.num_targets, num_drawn=shape.num_drawn, chunks=chunks)
    estimated = sum(measure(config, shape, (), backward=False).kept_bytes.values())
    assert estimated == pytest.approx(saved.peak_bytes, rel=0.15)  # measured: 10 and 6 % too much


def test_the_operations_of_a_language_model_are_two_for_each_parameter_and_token(tiny: TrainConfig) -> None:
    """And twice as many in the backward, half of that where it is frozen."""
    cost = measure(tiny, SHAPE, (), backward=True)
    layers = count_parameters(shell(tiny), tiny).trainable
    tokens = SHAPE.num_rows * SHAPE.row_tokens
    transformer = tiny.model.language_model.transformer
    tables = 2 * transformer["vocab_size"] * transformer["hidden_size"]  # looked up, and the head, which is in logits
    at_least = 2 * tokens * (layers["language model"] - tables)
    assert at_least < cost.forward_flops["language_model"] < 2 * at_least  # with attention, MMFS and its values
    assert cost.forward_flops["logits"] == tables * SHAPE.num_targets
    forward = sum(cost.forward_flops.values())
    assert 2 * forward < cost.flops < 3.1 * forward  # the VAE has no backward, attention more than twice
    frozen = measure(replace(tiny, frozen=list(PAPER_FROZEN)), SHAPE, (), backward=True)
    assert 1.5 * forward < frozen.flops < 0.95 * cost.flops


@pytest.mark.slow
def test_chunks_recomputation_and_half_precision_keep_less(tiny: TrainConfig) -> None:
    plain = measure(tiny, SHAPE, (), backward=False)
    less = measure(tiny, SHAPE, ALL, backward=False).kept_bytes
    assert all(less[part] < plain.kept_bytes[part] for part in ("encoder", "language_model", "image_decoder"))
    chunked = measure(replace(tiny, images_at_once=1, tokens_at_once=4), SHAPE, (), backward=False)
    assert chunked.kept_bytes["image_decoder"] < 0.4 * plain.kept_bytes["image_decoder"]
    assert chunked.kept_bytes["logits"] < 0.5 * plain.kept_bytes["logits"]
    assert chunked.flops == pytest.approx(plain.flops, rel=0.05)  # but for the images' shares of the bank
    half = measure(replace(tiny, precision="bfloat16"), SHAPE, (), backward=False)
    assert half.kept_bytes["language_model"] < 0.85 * plain.kept_bytes["language_model"]


def test_parameters_are_those_of_the_model(tiny: TrainConfig) -> None:
    config = replace(tiny, frozen=["vision", "vae"], freeze_encoder=True)
    counted = count_parameters(shell(config), config)
    model = MMInterleaved(config.model)
    total = sum(p.numel() for p in model.parameters())
    assert counted.num_trainable + sum(counted.frozen.values()) == total
    adapter = sum(p.numel() for p in model.visual_tokenizer.adapter.parameters())
    assert counted.frozen["CLIP"] + counted.frozen["ViT-Adapter"] == adapter
    assert counted.trainable["CLIP"] == counted.trainable["ViT-Adapter"] == 0
    assert counted.frozen_bytes == 4 * sum(counted.frozen.values())


def test_adapters_of_a_frozen_language_model_are_trained(tiny: TrainConfig) -> None:
    pytest.importorskip("peft")
    config = replace(tiny, frozen=["language_model"], lora=LoraConfig(rank=2))
    counted = count_parameters(shell(config), config)
    assert 0 < counted.trainable["language model"] < 0.2 * counted.frozen["language model"]


def test_memory_is_shared_by_the_gpus(tiny: TrainConfig) -> None:
    parameters = count_parameters(shell(tiny), tiny)
    cost = StepCost(kept_bytes={"encoder": 7}, forward_flops={"encoder": 1}, flops=1)
    weights = 4.0 * parameters.num_trainable

    def on(config: TrainConfig, num_gpus: int) -> dict[str, float]:
        return memory_bytes(config, Machine(num_gpus, 80 * GB), parameters, cost, cost)

    one, eight, copies = on(tiny, 1), on(tiny, 8), on(replace(tiny, shard_size=1), 8)
    assert (one["AdamW"], eight["AdamW"], copies["AdamW"]) == (2 * weights, weights / 4, 2 * weights)
    assert (one["the same, gathered"], eight["the same, gathered"]) == (0, weights)
    assert one["average of the weights"] == weights
    assert on(replace(tiny, ema_decay=0.0), 1)["average of the weights"] == 0
    assert one["kept for the backward"] == 7


@pytest.mark.slow
def test_the_command_tells_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert pretrain.main(["tiny", "--out", str(out), "--estimate", "2x0.001"]) == 0
    report = capsys.readouterr().out
    assert not out.exists()
    assert "tiny: a step has 2 rows, 1 at a time on each of 2 GPUs" in report
    assert "too little is left. Try --recompute" in report
    assert "2 H100 at 35% of 989 TFLOP/s" in report


@pytest.mark.parametrize("text", ["8", "0x80", "8x0", "8x80GB", "eight"])
def test_a_machine_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected GPUs and the GB of each, as in 8x80"):
        Machine.parse(text)


@pytest.mark.slow
def test_the_papers_run_is_estimated_without_its_weights() -> None:
    """Against the arithmetic on layer sizes: 13.4 B frozen, 1.4 B trained with MMFS after up-sampling blocks."""
    config = replace(
        RECIPES["paper_13b"](),
        precision="bfloat16",
        micro_batch_rows=1,
        images_at_once=8,
        tokens_at_once=1024,
        recompute=list(ALL),
    )
    counted = count_parameters(shell(config), config)
    assert counted.num_trainable / 1e9 == pytest.approx(1.40, abs=0.01)
    assert sum(counted.frozen.values()) / 1e9 == pytest.approx(13.40, abs=0.01)
    assert counted.frozen_bytes / GB == pytest.approx(26.8, abs=0.1)
    report = estimate(config, Machine(8, 80 * GB))
    assert "too little" not in report
    assert "days for 15,000 steps" in report


def test_the_released_model_needs_no_weights() -> None:
    config = replace(RECIPES["paper_13b"](), model=MMInterleavedConfig.released_13b())
    model = shell(config)
    assert {p.device for p in model.parameters()} == {torch.device("meta")}
    assert count_parameters(model, config).trainable["MMFS in the U-Net"] > 50e6
