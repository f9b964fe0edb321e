"""What a call costs beside what it computes: one token of a language model that sees four images, 100 calls at a time.

Each benchmark has a baseline, timed by turns; results are compared first. `pytest bench/bench_calls.py -s` prints how
they compare: `times_faster` of a call is less than 1 where its baseline is the arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench import measure
from bench.model_sides import often, time_both
from bench.workloads import SMOKE_LEVELS, Scale
from mmfs import MMFS, compiled, mmfs_attention
from mmfs.arguments import MMFSAttentionArguments
from mmfs.explanation import RecordingDevice
from mmfs.functional import checked_mmfs_attention, sizes_of
from mmfs.kernels import calls
from mmfs.kernels.plan import SHARED_BYTES
from models.folded_mmfs import FoldedMMFS

NUM_CALLS = 100
LEVELS = ((16, 16), (8, 8), (4, 4))
TOLERANCE = 1e-5
GRADIENTS = (
    "reference_points",
    "sampling_offsets",
    "attention_logits",
    "offset_table",
    "logit_table",
    "null_value",
)
"""Of a call whose images are frozen; with all gradients value's comes first."""


def arguments(scale: Scale, *, requires_grad: tuple[str, ...] = (), channels: int = 64) -> dict[str, Any]:
    """One query, 16 heads of 64 channels, 3 levels, 8 points, 4 images."""
    generator = torch.Generator().manual_seed(0)
    sizes = SMOKE_LEVELS if scale == "smoke" else LEVELS
    heads, points, levels, ages = 16, 8, len(sizes), 50

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    tensors = {
        "value": normal(4, sum(h * w for h, w in sizes), heads, channels),
        "reference_points": torch.rand(1, 1, 2, generator=generator),
        "sampling_offsets": normal(1, 1, heads, points, 2, scale=0.1),
        "attention_logits": normal(1, 1, heads, levels, points),
        "offset_table": normal(ages, heads, points, 2, scale=0.1),
        "logit_table": normal(ages, heads, levels, points),
        "null_value": normal(heads, channels),
    }
    for name in requires_grad:
        tensors[name].requires_grad_()
    return {**tensors, "spatial_shapes": sizes, "visible": torch.tensor([[[0, 4]]])}


def checked(named: dict[str, Any]) -> MMFSAttentionArguments:
    sizes, image_shapes = sizes_of(named["spatial_shapes"])
    fields = named | {"spatial_shapes": sizes, "image_shapes": image_shapes}
    return checked_mmfs_attention(MMFSAttentionArguments(**fields))


def by_operator(**named: Any) -> Tensor:
    """The registered operator, with the same checks."""
    out, _ = torch.ops.mmfs.mmfs_attention_with_lse(*checked(named))
    return out


def num_calls(scale: Scale) -> int:
    return 1 if scale == "smoke" else NUM_CALLS


def rounds(scale: Scale) -> int:
    return 1 if scale == "smoke" else 100


@pytest.fixture
def kernel() -> None:
    if (reason := compiled.why_not()) is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("kernel")
def bench_call_beside_its_arithmetic(benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """The public function without gradients, against the compiled kernel alone, whose structure is ready."""
    named = arguments(scale)
    ready = compiled.mmfs_attention_call(checked(named))
    out = torch.empty(1, 1, 16 * 64)
    ready.out = out.data_ptr()
    arithmetic = compiled.best_library().mmfs_cpu_mmfs_attention
    assert arithmetic(ready) == compiled.DONE
    error = measure.relative_error(mmfs_attention(**named), mmfs_attention(**named, backend="reference"))
    assert max(error, measure.relative_error(out, mmfs_attention(**named, backend="reference"))) < TOLERANCE
    time_both(
        benchmark,
        lambda: mmfs_attention(**named),
        lambda: arithmetic(ready),
        name="the compiled kernel alone",
        rounds=rounds(scale),
        error=error,
        device="cpu",
        num_calls=num_calls(scale),
    )


@pytest.mark.parametrize("with_value", [False, True], ids=["frozen-images", "all-gradients"])
def bench_call_with_backward(with_value: bool, benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """Forward and backward, against the registered operator with torch.library's gradient."""
    names = ("value", *GRADIENTS) if with_value else GRADIENTS
    named = arguments(scale, requires_grad=names)
    leaves, grad = [named[name] for name in names], torch.ones(1, 1, 16 * 64)

    def gradients(op: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(op(**named), leaves, grad)

    exact = gradients(lambda **named: mmfs_attention(**named, backend="reference"))
    error = measure.worst_error(gradients(mmfs_attention), exact)
    assert error < TOLERANCE
    time_both(
        benchmark,
        lambda: gradients(mmfs_attention),
        lambda: gradients(by_operator),
        name="torch.library's operator",
        rounds=rounds(scale),
        error=error,
        device="cpu",
        num_calls=num_calls(scale),
    )


def bench_call_without_gradients(benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """The public function, against the registered operator with the same checks."""
    named = arguments(scale)
    error = measure.relative_error(mmfs_attention(**named), mmfs_attention(**named, backend="reference"))
    assert error < TOLERANCE
    time_both(
        benchmark,
        lambda: mmfs_attention(**named),
        lambda: torch.ops.mmfs.mmfs_attention(*checked(named)),
        name="torch.library's operator",
        rounds=rounds(scale),
        error=error,
        device="cpu",
        num_calls=num_calls(scale),
    )


def bench_folded_layer_beside_its_products(benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """An MMFS layer as generation computes it, against its two matrix products."""
    torch.manual_seed(0)
    layer, norm = MMFS(128, 64, spatial_shapes=LEVELS, num_heads=4, num_points=4), nn.RMSNorm(128, eps=1e-6)
    nn.init.normal_(layer.sampling_offsets.weight, std=0.1)
    folded = FoldedMMFS(layer, norm, (0.5, 0.5), torch.ones(1))
    hidden, visible = torch.randn(1, 1, 128), torch.tensor([[[0, 4]]])
    with torch.inference_mode():
        values = layer.project_values(torch.randn(4, 336, 64))
        exact = layer(norm(hidden), torch.tensor([0.5, 0.5]), visible, values=values)
        error = measure.relative_error(folded(hidden, values, visible), exact)
        assert error < TOLERANCE
        sampled = torch.randn(1, 1, 128)

        def products() -> None:
            F.linear(hidden, folded.maps, folded.bias)
            F.linear(sampled, folded.output, folded.output_bias)

        time_both(
            benchmark,
            lambda: folded(hidden, values, visible),
            products,
            name="its two products",
            rounds=rounds(scale),
            error=error,
            device="cpu",
            num_calls=num_calls(scale),
        )


def bench_cuda_call_up_to_the_launch(benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """What the host does for the CUDA kernels before CuPy is called: plans, structures and outputs. On CPU tensors,
    with a device that launches nothing, so no result is compared; the structure of each launch is packed."""
    fields = checked(arguments(scale))
    device = PackingDevice(num_sms=132, shared_bytes=SHARED_BYTES)
    benchmark.pedantic(
        often(lambda: calls.mmfs_attention_forward(device, fields), num_calls(scale)),
        rounds=rounds(scale),
        warmup_rounds=1,
    )
    assert device.launches
    benchmark.extra_info["num_calls"] = num_calls(scale)


class PackingDevice(RecordingDevice):
    """Packs the arguments of each launch, as a GPU's would, and launches nothing."""

    def launch(self, launch: Any, arguments: Any) -> None:
        super().launch(launch, arguments)
        arguments.pack()
