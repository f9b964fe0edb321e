"""What MMFS costs a language model and an image decoder, and what reading everything once saves.

Each benchmark has a baseline that computes the same. The results are compared before anything is timed, and the two are
timed by turns; `pytest bench/bench_model.py -s` prints how they compare, `--benchmark-json` keeps it as `extra_info`.
Those marked `gpu` have the sizes of real models and random weights; with --smoke they are tiny and run on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench import measure, model_large
from bench.model_eq4 import eq4
from bench.model_sides import time_both
from bench.model_turns import Turns, write_reading_again, write_reading_once
from bench.workloads import LLM_LEVELS, SMOKE_LEVELS, Scale
from mmfs import MMFS
from models import MMInterleaved
from models.folded_mmfs import FoldedMMFS
from models.generation.state import Piece
from models.generation.torch_state import TorchGenerationState
from models.language_model import LanguageSynchronizer

TOY = Path(__file__).parents[1] / "trainer/weights/toy"
TOLERANCE = 1e-4  # relative, float32: two orders of the same sums through a whole network


@pytest.fixture(scope="module")
def toy() -> MMInterleaved:
    return MMInterleaved.from_pretrained(TOY)


def images(model: MMInterleaved, count: int) -> list[Piece]:
    """A document of that many images with some words between them."""
    generator = torch.Generator().manual_seed(0)
    document: list[Piece] = [[model.config.bos_token_id]]
    for _ in range(count):
        image = torch.rand(3, *model.config.image_size, generator=generator)
        words = torch.randint(5, 500, (8,), generator=generator).tolist()
        document += [[model.config.begin_of_image_id], image, words]
    return document


def bench_decoding_with_four_images(
    toy: MMInterleaved, benchmark: BenchmarkFixture, num_threads: int, scale: Scale
) -> None:
    """One more token behind four images, against the same language model without MMFS. Target: at most 1.10 times."""
    without = MMInterleaved(toy.config.without_mmfs()).eval()
    without.load_state_dict({name: toy.state_dict()[name] for name in without.state_dict()})
    document = images(toy, 4)
    with torch.inference_mode():
        closed, plain, reading = (TorchGenerationState(model) for model in (toy, without, toy))
        closed.folded = [fold_closed(synchronizer) for synchronizer in toy.language_model.synchronizers]
        error = measure.relative_error(closed.read([document]), plain.read([document]))
        assert error < TOLERANCE, f"with closed gates it is another language model, by {error:.1e}"
        reading.read([document])
        time_both(
            benchmark,
            torch.inference_mode()(lambda: reading.read([[[9]]])),
            torch.inference_mode()(lambda: plain.read([[[9]]])),
            name="without MMFS",
            rounds=1 if scale == "smoke" else 200,
            error=error,
            device="cpu",
        )


def fold_closed(synchronizer: torch.nn.Module) -> FoldedMMFS:
    """A synchronizer whose gate is closed."""
    assert isinstance(synchronizer, LanguageSynchronizer)
    folded = synchronizer.fold()
    assert folded is not None, "the toy's layers are as they were made"
    folded.output, folded.output_bias = torch.zeros_like(folded.output), torch.zeros_like(folded.output_bias)
    return folded


@pytest.mark.parametrize("num_steps", [1, 30], ids=["1-step", "30-steps"])
def bench_four_turns(
    toy: MMInterleaved, num_steps: int, benchmark: BenchmarkFixture, num_threads: int, scale: Scale
) -> None:
    """Four turns of text and an image behind four images, against doing as the released script does. Target: 3 times
    faster. Tokens are written one by one either way, and the U-Net's own work is the same: 1 step shows what reading
    costs, 30 are what the release draws with."""
    turns = Turns(2, 2, 1) if scale == "smoke" else Turns(num_turns=4, num_tokens=16, num_inference_steps=num_steps)
    document = images(toy, 4)
    once, again = write_reading_once(toy, document, turns), write_reading_again(toy, document, turns)
    assert once.tokens == again.tokens
    error = measure.worst_error(once.images, again.images)
    assert error < 0.01, f"the two ways draw different images, by {error:.1e}"
    time_both(
        benchmark,
        lambda: write_reading_once(toy, document, turns),
        lambda: write_reading_again(toy, document, turns),
        name="everything again in each turn",
        rounds=1 if scale == "smoke" else 3,
        error=error,
        device="cpu",
    )


@pytest.mark.parametrize("sizes", ["toy", "released"])
def bench_prefill_with_six_images(
    toy: MMInterleaved, sizes: str, benchmark: BenchmarkFixture, num_threads: int, scale: Scale
) -> None:
    """2048 tokens and six images in one MMFS layer, against Eq. 4 as it is written. Target: 5 times faster, with
    a fifth of the memory. "released" has the release's heads, points and levels, and 1024 channels of its 5120."""
    layer, features = mmfs_layer(toy, sizes, scale)
    num_tokens = 12 if scale == "smoke" else 2048
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, num_tokens, layer.query_dim, generator=generator)
    num_images = features.shape[1]
    last = torch.arange(num_tokens) * (num_images + 1) // num_tokens  # images come evenly; the first tokens see none
    visible = torch.stack([torch.zeros_like(last), last], dim=-1)[None]  # [1, T, 2]
    seen = (torch.arange(num_images) < last[:, None])[None]  # [1, T, M]
    centre = torch.tensor([0.5, 0.5])

    @torch.inference_mode()
    def ours() -> Tensor:
        out: Tensor = layer(query, centre, visible, features=features[0])
        return out

    @torch.inference_mode()
    def as_written() -> Tensor:
        return eq4(layer, query, centre, seen, features)

    error = measure.relative_error(ours(), as_written())
    assert error < TOLERANCE, f"the layer is not Eq. 4, by {error:.1e}"
    time_both(
        benchmark,
        ours,
        as_written,
        name="Eq. 4 as written",
        rounds=1 if scale == "smoke" else 3,
        error=error,
        device="cpu",
        with_memory=scale != "smoke",
    )


def mmfs_layer(toy: MMInterleaved, sizes: str, scale: Scale) -> tuple[MMFS, Tensor]:
    """A language model's MMFS layer, and the features of six images [1, 6, S, F]."""
    if sizes == "toy":
        layer = toy.language_model.synchronizers[0].mmfs
        assert isinstance(layer, MMFS)
    else:
        width, levels = (16, SMOKE_LEVELS) if scale == "smoke" else (1024, LLM_LEVELS)
        layer = MMFS(width, width, spatial_shapes=levels, max_age=49)
    num_pixels = sum(h * w for h, w in layer.spatial_shapes)
    return layer, torch.randn(1, 6, num_pixels, layer.feature_dim, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def large_device(device: str, scale: Scale, how: str) -> str:
    """Where the large networks run: a GPU; tiny ones, anywhere."""
    if device == "cpu" and scale != "smoke":
        pytest.skip("this needs a CUDA device: networks of full size in bfloat16; --smoke runs them tiny")
    if device == "cpu" and how == "cuda-graph":
        pytest.skip("a CUDA graph needs a CUDA device")
    return device


# large_device stands before benchmark: pytest-benchmark complains of one that was set up and then skipped.
@pytest.mark.gpu
@pytest.mark.parametrize("how", ["eager", "cuda-graph"])
def bench_decoding_7b(large_device: str, how: str, benchmark: BenchmarkFixture, scale: Scale) -> None:
    """A token of a language model of 7B's shape in bfloat16, MMFS every 4th layer, four images; against the same
    without MMFS. "bandwidth_share": bytes that must be read for a token over what the device reads in that time."""
    step = model_large.DecodingStep(large_device, tiny=scale == "smoke")
    error = measure.relative_error(step.closed(), step.without())
    assert error < 0.02, f"with closed gates it is another language model, by {error:.1e}"
    ours, without = (
        model_large.recorded(run) if how == "cuda-graph" else run for run in (step.with_mmfs, step.without)
    )
    time_both(
        benchmark,
        ours,
        without,
        name="without MMFS",
        rounds=1 if scale == "smoke" else 50,
        error=error,
        device=large_device,
    )
    bytes_per_s = model_large.bytes_per_s(large_device, 2**20 if scale == "smoke" else 2**31)
    token_s = benchmark.extra_info["median_s"]
    benchmark.extra_info |= {
        "tokens_per_s": 1 / token_s,
        "tokens_per_s_without": 1 / benchmark.extra_info["baseline_median_s"],
        "bandwidth_share": step.bytes_read / token_s / bytes_per_s,
    }


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")  # in diffusers
@pytest.mark.parametrize("how", ["eager", "compiled", "cuda-graph"])
def bench_unet_sd21(large_device: str, how: str, benchmark: BenchmarkFixture, scale: Scale) -> None:
    """A denoising step of a U-Net of Stable Diffusion 2.1's size in bfloat16 with MMFS and two images; against the same
    without MMFS, both eager, compiled, or as a CUDA graph of the eager one."""
    step = model_large.UNetStep(large_device, tiny=scale == "smoke")
    error = measure.relative_error(step.closed(), step.without())
    assert error < 0.02, f"before training it is another U-Net, by {error:.1e}"
    ways: dict[str, Callable[[Callable[[], Tensor]], Callable[[], Tensor]]] = {
        "eager": lambda run: run,
        "compiled": lambda run: torch.compile(run, backend="eager" if scale == "smoke" else "inductor"),
        "cuda-graph": model_large.recorded,
    }
    ours, without = ways[how](step.with_mmfs), ways[how](step.without)
    difference = measure.relative_error(ours(), step.with_mmfs())
    assert difference < 0.05, f"{how} it computes something else, by {difference:.1e}"
    time_both(
        benchmark,
        ours,
        without,
        name="without MMFS",
        rounds=1 if scale == "smoke" else 50,
        error=difference,
        device=large_device,
    )
    benchmark.extra_info["steps_per_s"] = 1 / benchmark.extra_info["median_s"]
