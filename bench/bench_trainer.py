"""A training step of the toy model against the same step with the release's choices, and the data that feeds it.

The one marked `gpu` is a step of a large model with random weights; with --smoke it is tiny and runs on any machine.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import measure
from bench.model_sides import seconds, time_both
from bench.trainer_as_released import as_released, gradients, train_as_released
from bench.trainer_large import LargeStep, large_run
from bench.workloads import Scale
from models import MMInterleaved
from models.component_names import CompiledComponent
from trainer.config import EncoderPretrainingConfig, TrainConfig
from trainer.cost.estimate import figures
from trainer.cost.gpu_memory import Machine
from trainer.cost.utilisation import peak_flops
from trainer.data.stream import Stream
from trainer.logging.log_file import read_log
from trainer.recipes import RECIPES
from trainer.run import make_run
from trainer.step.accumulate import Chunks, accumulate
from trainer.system_config import CheckpointConfig

TOLERANCE = 1e-3  # relative, float32: gradients of a whole network, added up in another order
IMAGES_AT_ONCE = 8
ESTIMATE_ERROR = 0.15


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
        checkpoint=CheckpointConfig(every=100),
        encoder_pretraining=EncoderPretrainingConfig(),
    )
    if recipe.init is not None:
        recipe = replace(recipe, init=str(Path(__file__).parents[1] / recipe.init))
    benchmark.pedantic(make_run, (recipe,), rounds=1)
    steps = [record for record in read_log(tmp_path / "run") if "step_s" in record][2:]  # the worker has to start
    share = sum(step["data_wait_s"] for step in steps) / sum(step["step_s"] for step in steps)
    benchmark.extra_info["waiting_share"] = share
    print(f"\n{benchmark.name}: {share:.1%} of a step")


@pytest.fixture
def large_device(device: str, scale: Scale) -> str:
    """Where the large model runs."""
    if device == "cpu" and scale != "smoke":
        pytest.skip("this needs a CUDA device: a model of 2.7 billion parameters in bfloat16; --smoke runs it tiny")
    return device


# large_device stands before benchmark: pytest-benchmark complains of one that was set up and then skipped.
@pytest.mark.gpu
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # the compiler looks
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def bench_large_step(large_device: str, benchmark: BenchmarkFixture, scale: Scale, compiled: bool) -> None:
    """A step in bfloat16 with a language model of 1.3 B parameters, frozen as in the paper. "utilisation": the model's
    own operations over what the device could do in that time. Target: a peak memory within 15 % of what `--estimate`
    says, which knows nothing of the compiler: of the compiled step, no more than 15 % above it."""
    torch._dynamo.reset()
    config = large_run(tiny=scale == "smoke")
    if compiled:
        config = replace(config, compile=list(get_args(CompiledComponent)))
    known = figures(config, Machine(num_gpus=1, gpu_bytes=math.inf))
    step = LargeStep(config, large_device, backend="eager" if scale == "smoke" else "inductor")
    assert math.isfinite(step()), "the gradient is not finite"  # it makes the optimizer's state, too
    info = benchmark.extra_info
    info |= {"estimated_bytes": sum(known.memory.values()), "estimated": known.memory, "model_flops": known.plain.flops}
    if large_device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    benchmark.pedantic(step, rounds=1 if scale == "smoke" else 10, warmup_rounds=1)
    step_s = seconds(step, large_device) if benchmark.stats is None else benchmark.stats.stats.median
    info |= {"step_s": step_s, "tokens_per_s": known.shape.num_rows * known.shape.row_tokens / step_s}
    info["images_per_s"] = known.shape.num_images / step_s
    peak = peak_flops(config, torch.device(large_device))
    if peak is not None:
        info["utilisation"] = known.plain.flops / step_s / peak
    if large_device == "cuda":
        info["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        info["estimate_over_peak"] = info["estimated_bytes"] / info["peak_memory_bytes"]
    print(f"\n{benchmark.name}: { {key: value for key, value in info.items() if key != 'estimated'} }")
    if scale != "smoke":
        least, most = 1 - ESTIMATE_ERROR, 1 + ESTIMATE_ERROR
        assert least <= info["estimate_over_peak"], "the estimate of memory is too low"
        assert compiled or info["estimate_over_peak"] <= most, "the estimate of memory is too high"
