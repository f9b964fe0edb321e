"""A training step of the toy model against the same step with the release's choices, and the data that feeds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import measure
from bench.model_sides import time_both
from bench.trainer_as_released import as_released, gradients, train_as_released
from bench.workloads import Scale
from models import MMInterleaved
from trainer.accumulate import Chunks, accumulate
from trainer.config import EncoderPretrainingConfig, TrainConfig
from trainer.data.stream import Stream
from trainer.metrics import read_log
from trainer.pretrain import run
from trainer.recipes import RECIPES

TOLERANCE = 1e-3  # relative, float32: gradients of a whole network, added up in another order
IMAGES_AT_ONCE = 8


@pytest.fixture
def config() -> TrainConfig:
    """The recipe `toy`."""
    return RECIPES["toy"]()


def bench_training_step(config: TrainConfig, benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """Forward and backward of one batch. The baseline multiplies nothing of Eq. 4 out, and runs the U-Net on all images
    in one graph. Target: at least 1.5 times faster."""
    assert config.init is not None
    rows = range(2 if scale == "smoke" else config.data.num_rows)
    batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, rows)
    ours = MMInterleaved.from_pretrained(Path(__file__).parents[1] / config.init).train()
    ours.visual_tokenizer.adapter.requires_grad_(not config.freeze_encoder)
    released = as_released(ours)
    num_targets, num_drawn = int((batch.targets >= 0).sum()), len(batch.drawn)

    def train() -> None:
        ours.zero_grad()
        accumulate(ours, batch, num_targets=num_targets, num_drawn=num_drawn, chunks=Chunks(images=IMAGES_AT_ONCE))

    def train_released() -> None:
        released.zero_grad()
        train_as_released(released, batch)

    train()
    train_released()
    error = measure.relative_error(gradients(ours.parameters()), gradients(released.parameters()))
    assert error < TOLERANCE, f"the two gradients differ by {error:.1e}"
    time_both(
        benchmark,
        train,
        train_released,
        name="as released",
        rounds=1 if scale == "smoke" else 10,
        error=error,
        device="cpu",
        with_memory=True,
    )
    info = benchmark.extra_info
    info["tokens_per_s"] = int((batch.document_ids >= 0).sum()) / info["median_s"]
    info["images_per_s"] = len(batch.pixel_values) / info["median_s"]
    info |= {"num_images": len(batch.pixel_values), "num_drawn": num_drawn}


def bench_data(config: TrainConfig, benchmark: BenchmarkFixture, scale: Scale) -> None:
    """Making batches of the emoji world on one core."""
    torch.set_num_threads(1)
    stream = Stream(config.data, config.model, seed=config.seed)
    num_images = []
    steps = iter(range(10_000))

    def make() -> None:
        num_images.append(len(stream(next(steps)).pixel_values))

    benchmark.pedantic(make, rounds=1 if scale == "smoke" else 20, warmup_rounds=1)
    if benchmark.stats is not None:  # without timing there are none
        seconds = benchmark.stats.stats.mean
        benchmark.extra_info["images_per_s_and_core"] = sum(num_images) / len(num_images) / seconds
        print(f"\n{benchmark.name}: {benchmark.extra_info['images_per_s_and_core']:.0f} images/s a core")


def bench_waiting_for_data(config: TrainConfig, benchmark: BenchmarkFixture, tmp_path: Path, scale: Scale) -> None:
    """Share of a real run's steps that is spent waiting for the batch. Target: under 5 %."""
    recipe = RECIPES["tiny"]() if scale == "smoke" else config
    recipe = replace(
        recipe,
        out=str(tmp_path / "run"),
        num_steps=3 if scale == "smoke" else 12,
        max_minutes=None,
        num_workers=1,
        checkpoint_every=100,
        encoder_pretraining=EncoderPretrainingConfig(),
    )
    if recipe.init is not None:
        recipe = replace(recipe, init=str(Path(__file__).parents[1] / recipe.init))
    benchmark.pedantic(run, (recipe,), rounds=1)
    steps = [record for record in read_log(tmp_path / "run") if "step_s" in record][2:]  # the worker has to start
    share = sum(step["data_wait_s"] for step in steps) / sum(step["step_s"] for step in steps)
    benchmark.extra_info["waiting_share"] = share
    print(f"\n{benchmark.name}: {share:.1%} of a step")
