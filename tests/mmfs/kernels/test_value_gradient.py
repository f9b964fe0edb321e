"""The ways to sum the gradient of value: which is taken when, and each against the specification."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import emulated_calls
from emulated_calls import (
    assert_agrees,
    mmfs_attention_specification,
    run_mmfs_attention,
    run_ms_deform_attn,
    weighting_of,
)
from mmfs.kernels import value_gradient
from mmfs.kernels.arguments import KernelArguments
from mmfs.kernels.value_gradient import ValueGradient, plan_value_gradient
from op_cases import Case, image_lists_case, mmfs_attention_case, ms_deform_attn_case

H100 = {"num_sms": 132, "shared_bytes": 227 * 1024}
SMALL_GPU = {"num_sms": 58, "shared_bytes": 99 * 1024}
LLM = ((32, 32), (16, 16), (8, 8))
UNET = ((64, 64), *LLM)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# The two differ in their conversions alone.
HALF_TYPES = [pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16]


def planned(
    sizes: tuple[tuple[int, int], ...],
    dtype: torch.dtype = torch.bfloat16,
    *,
    batch: int = 4,
    num_queries: int = 2048,
    num_images: int = 6,
    num_points: int = 8,
    num_heads: int = 16,
    num_channels: int = 64,
    is_mmfs_attention: bool = True,
    deterministic: bool = False,
    gpu: dict[str, int] = H100,
) -> ValueGradient:
    num_pixels = sum(height * width for height, width in sizes)
    arguments = KernelArguments(
        num_rows=batch * num_queries,
        num_queries=num_queries,
        num_images=batch * num_images,
        num_pixels=batch * num_images * num_pixels,
        pixels_per_image=num_pixels,
        num_heads=num_heads,
        num_channels=num_channels,
        num_levels=len(sizes),
        num_points=num_points,
        value=torch.empty(0),
    )
    return plan_value_gradient(
        arguments, dtype, is_mmfs_attention=is_mmfs_attention, deterministic=deterministic, **gpu
    )


@pytest.mark.parametrize(
    ("expected", "reason", "options"),
    [
        ("dense", "touches up to 96 of the 1344 pixels", {"sizes": LLM}),
        ("map", "about 146 additions, and 2 tiles are a map", {"sizes": LLM, "dtype": torch.float32}),
        ("map", "about 73 additions", {"sizes": LLM, "num_points": 4}),
        ("map", "2 tiles are a map", {"sizes": LLM, "is_mmfs_attention": False}),
        ("atomic", "about 7 additions", {"sizes": LLM, "num_queries": 100}),
        ("atomic", "would be 8 tiles", {"sizes": UNET}),
        (
            "atomic",
            "would be 32, fewer than the 132",
            {"sizes": LLM, "dtype": torch.float32, "batch": 1, "num_images": 1},
        ),
        ("atomic", "would be 6 tiles", {"sizes": LLM, "gpu": SMALL_GPU}),
        ("map", "use_deterministic_algorithms", {"sizes": UNET, "deterministic": True}),
        ("map", "use_deterministic_algorithms", {"sizes": LLM, "num_queries": 1, "deterministic": True}),
        ("dense", "is a type of tensor cores", {"sizes": LLM, "deterministic": True}),
    ],
)
def test_the_way_follows_from_the_shape(expected: str, reason: str, options: dict[str, Any]) -> None:
    plan = planned(**options)
    assert plan.way == expected
    assert reason in plan.reason


@pytest.mark.parametrize("gpu", [H100, SMALL_GPU], ids=["H100", "small"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_channels", [1, 32, 33, 64, 150])
def test_tiles_cover_a_map_and_fit_the_shared_memory(
    gpu: dict[str, int], dtype: torch.dtype, num_channels: int
) -> None:
    plan = planned(UNET, dtype, num_channels=num_channels, num_points=2, deterministic=True, gpu=gpu)
    assert plan.launch is not None
    tiles, heads, slices = plan.launch.grid
    assert plan.launch.shared_bytes <= gpu["shared_bytes"]
    assert tiles % 24 == 0, "tiles do not reach from one image into the next"
    assert 5440 <= tiles // 24 * plan.launch.tile_pixels < 5440 + tiles // 24
    assert heads == 16
    assert slices * 32 * plan.launch.instance.arguments[1] >= num_channels


@pytest.fixture
def by_map(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The device, for which every call is worth it; tests see the tiles of a GPU with little memory."""
    monkeypatch.setattr(value_gradient, "MANY_ADDITIONS", 0)
    return device


@pytest.fixture
def by_matrices(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(value_gradient, "FEWEST_DENSE_ROWS", 1)
    device.shared_bytes = 227 * 1024
    return device


def last_kernel(device: Any) -> str:
    name: str = device.launched[-1].instance.kernel
    return name


@pytest.mark.parametrize(
    ("dtype", "dim"),
    [
        (torch.float64, 8),
        (torch.float32, 8),
        (torch.bfloat16, 8),
        (torch.bfloat16, 40),
        pytest.param(torch.float64, 40, marks=pytest.mark.slow),
        pytest.param(torch.float32, 40, marks=pytest.mark.slow),
        pytest.param(torch.float16, 8, marks=pytest.mark.slow),
        pytest.param(torch.float16, 40, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_map(by_map: Any, dtype: torch.dtype, dim: int) -> None:
    """Both numbers of channels a lane, each with channels to spare."""
    for case, run in (
        (mmfs_attention_case(dim=dim), run_mmfs_attention),
        (ms_deform_attn_case(dim=dim), run_ms_deform_attn),
        (image_lists_case(dim=dim, points_by_level=True), run_mmfs_attention),
    ):
        assert_agrees(run(by_map, case, dtype), case, dtype)
        assert last_kernel(by_map) == "map_gradient"
        assert len(by_map.launched) <= 4, "forward, merge, and a backward of two"
        by_map.launched.clear()


@pytest.mark.slow
def test_map_cut_into_tiles_and_channels(by_map: Any) -> None:
    """In more batches than one, of rows that are more than a block has threads."""
    case = ms_deform_attn_case(((30, 17), (3, 2)), dim=70, batch=1, num_queries=520, num_heads=1, num_points=1)
    actual = run_ms_deform_attn(by_map, case, torch.float32, deterministic=True)
    assert by_map.launched[-1].grid == (3, 1, 2)
    assert_agrees(actual, case, torch.float32)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("dim", [8, 64])
def test_dense(by_matrices: Any, dtype: torch.dtype, dim: int, falling: bool) -> None:
    by_matrices.falling = falling
    for case in (mmfs_attention_case(dim=dim), image_lists_case(dim=dim, offsets_by_level=True)):
        assert_agrees(run_mmfs_attention(by_matrices, case, dtype), case, dtype)
        assert last_kernel(by_matrices) == "dense_gradient"


@pytest.mark.slow
def test_dense_cut_into_tiles_channels_and_heads(by_matrices: Any) -> None:
    """Rows fill several matrices, and the last in part; the map is more than a tile, with a rest."""
    case = mmfs_attention_case(((22, 19), (3, 2)), dim=67, num_queries=161, num_images=2, num_points=5)
    actual = run_mmfs_attention(by_matrices, case, torch.bfloat16)
    assert by_matrices.launched[-1].grid == (4, 2, 2)
    assert_agrees(actual, case, torch.bfloat16)


def test_sums_are_rounded_once(by_map: Any, by_matrices: Any) -> None:
    """Tensor cores multiply half types: a weight is two of them, as one alone would be rounded too."""
    case = mmfs_attention_case(dim=8, num_queries=37)
    leaves = {name: tensor.bfloat16().double().requires_grad_() for name, tensor in case.tensors.items()}
    out = mmfs_attention_specification(**leaves, **case.rest)
    grad_out = weighting_of(out.bfloat16()).double()
    expected = torch.autograd.grad(out, leaves["value"], grad_out)[0].bfloat16()

    def share_of_equal() -> float:
        return float((run_mmfs_attention(by_matrices, case, torch.bfloat16)["value"] == expected).double().mean())

    assert share_of_equal() > 0.98
    by_matrices.shared_bytes = 99 * 1024
    assert share_of_equal() > 0.98
    assert [launch.instance.kernel for launch in by_matrices.launched[2::3]] == ["dense_gradient", "map_gradient"]
    by_matrices.shared_bytes = 227 * 1024
    by_matrices.changed = ("low[k] = pair_of(", "low[k] = 0 * pair_of(")
    by_matrices.changed_kernel = "dense_gradient"
    assert share_of_equal() < 0.9


def ragged_case(dim: int) -> Case:
    """Images of different sizes."""
    case = mmfs_attention_case(dim=dim)
    sizes = torch.tensor([[[4, 7], [3, 2]], [[1, 1], [2, 5]], [[6, 2], [1, 3]]]).repeat(2, 1, 1)  # [N, L, 2]
    draw = torch.Generator().manual_seed(1)
    num_pixels = int(sizes.prod(-1).sum())
    case.tensors["value"] = torch.randn(num_pixels, 2, dim, generator=draw, dtype=torch.float64)
    case.rest["spatial_shapes"] = sizes
    return case


def test_images_of_different_sizes(by_map: Any, by_matrices: Any) -> None:
    case = ragged_case(8)
    assert_agrees(run_mmfs_attention(by_matrices, case, torch.bfloat16), case, torch.bfloat16)
    assert last_kernel(by_matrices) == "dense_gradient"
    assert_agrees(run_mmfs_attention(by_map, case, torch.float32), case, torch.float32)
    assert last_kernel(by_map) == "map_gradient"


def test_no_image_and_sizes_that_do_not_fit(by_map: Any, by_matrices: Any) -> None:
    """The gradient of value is zero then: nothing is known to be seen."""
    for dtype in (torch.float32, torch.bfloat16):
        blind = mmfs_attention_case(dim=8)
        blind.rest["visible"][..., 1] = blind.rest["visible"][..., 0]
        assert_agrees(run_mmfs_attention(by_matrices, blind, dtype), blind, dtype)
        unfit = ragged_case(8)
        unfit.rest["spatial_shapes"] = torch.tensor([(9, 9), (3, 2)]).expand(6, 2, 2)
        assert run_mmfs_attention(by_map, unfit, dtype)["value"].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1e30])
def test_locations_that_are_not_finite_add_nothing(
    by_map: Any, by_matrices: Any, dtype: torch.dtype, bad: float
) -> None:
    case = mmfs_attention_case(dim=8)
    case.tensors["sampling_offsets"][:, ::2, 0, 0, 0] = bad
    case.tensors["reference_points"][1, 3] = bad
    assert_agrees(run_mmfs_attention(by_matrices, case, dtype), case, dtype)
    assert last_kernel(by_matrices) == ("dense_gradient" if dtype is torch.bfloat16 else "map_gradient")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("way", ["dense", "map"])
def test_a_gradient_that_is_not_finite_reaches_the_pixels_of_its_row_alone(
    by_map: Any, by_matrices: Any, monkeypatch: pytest.MonkeyPatch, way: str, bad: float
) -> None:
    """In the channels where it is not: in two rows, of which one touches few pixels, and the other several images."""

    def broken(out: Tensor) -> Tensor:
        weighting = weighting_of(out).unflatten(-1, (2, 8))  # [B, Q, H, D]
        weighting[0, 1, 0, 2] = weighting[1, 0, 1, 7] = bad
        return weighting.flatten(2)

    monkeypatch.setattr(emulated_calls, "weighting_of", broken)
    case = mmfs_attention_case(dim=8, num_queries=37)
    leaves = {name: tensor.bfloat16().double().requires_grad_() for name, tensor in case.tensors.items()}
    out = mmfs_attention_specification(**leaves, **case.rest)
    grad_out = broken(out.detach().bfloat16()).double()
    expected = torch.autograd.grad(out, leaves["value"], grad_out)[0]  # [N, S, H, D]
    if way == "map":
        by_matrices.shared_bytes = 99 * 1024
    actual = run_mmfs_attention(by_matrices, case, torch.bfloat16)["value"]
    assert last_kernel(by_matrices) == f"{way}_gradient"
    finite = expected.isfinite()
    assert 0 < (~finite).sum() < finite[..., 0, 2].numel() // 2
    assert torch.equal(actual.isfinite(), finite)
    torch.testing.assert_close(actual[finite].double(), expected[finite], rtol=2**-8, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "correct", "wrong"),
    [
        pytest.param(torch.float32, "owner_of(pixel) == warp", "owner_of(pixel) == warp && warp != 3", id="map-owner"),
        pytest.param(torch.float32, "if (wanted == row) {", "if (row >= 0) {", id="map-row"),
        pytest.param(torch.bfloat16, "* WEIGHT_STRIDE + pixel;", "* WEIGHT_STRIDE + (pixel ^ 1);", id="dense-pixel"),
        pytest.param(torch.bfloat16, "pair * 2 + j < count", "pair * 2 + j + 1 < count", id="dense-last-row"),
    ],
)
def test_a_wrong_kernel_is_noticed(by_map: Any, by_matrices: Any, dtype: torch.dtype, correct: str, wrong: str) -> None:
    case = mmfs_attention_case(dim=8)
    by_matrices.changed = (correct, wrong)
    by_matrices.changed_kernel = "map_gradient" if dtype is torch.float32 else "dense_gradient"
    with pytest.raises(AssertionError, match=r"error .* exceeds"):
        assert_agrees(run_mmfs_attention(by_matrices, case, dtype), case, dtype)


def test_the_order_of_threads_changes_no_bit_of_a_product(by_matrices: Any) -> None:
    """What `torch.use_deterministic_algorithms` promises: equal bit for bit."""
    case = mmfs_attention_case(dim=8, num_queries=37)
    gradients = []
    for falling in (False, True):
        by_matrices.falling = falling
        gradients.append(run_mmfs_attention(by_matrices, case, torch.bfloat16)["value"])
    assert torch.equal(*gradients)
