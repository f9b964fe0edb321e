"""The CUDA sources, run on the CPU, against the specification: values and all gradients.

Outputs come poisoned with NaN where the kernels are to write them, and every access is checked for its bounds.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emulated_calls import assert_agrees, run_mmfs_attention, run_ms_deform_attn
from mmfs import autograd, cuda, mmfs_attention
from mmfs.arguments import MSDeformAttnArguments
from mmfs.kernels import calls
from mmfs.kernels.arguments import KernelArguments
from mmfs.kernels.plan import Launch
from mmfs.reference import ms_deform_attn_reference
from op_cases import NOT_SQUARE, image_lists_case, mmfs_attention_case, ms_deform_attn_case

# Channels of a head: by vectors of 1, 2, 4 and 8; two chunks of 32 lanes; more lanes than vectors.
INSTANCES = [
    (torch.float64, 3),
    (torch.float64, 8),
    (torch.float32, 3),
    (torch.float32, 8),
    (torch.float32, 140),
    (torch.float16, 8),
    (torch.bfloat16, 20),
]
FLAT = [side for size in NOT_SQUARE for side in size]


@pytest.mark.parametrize(("dtype", "dim"), INSTANCES)
def test_ms_deform_attn(device: Any, dtype: torch.dtype, dim: int) -> None:
    case = ms_deform_attn_case(dim=dim)
    assert_agrees(run_ms_deform_attn(device, case, dtype), case, dtype)


@pytest.mark.parametrize(("dtype", "dim"), INSTANCES)
def test_mmfs(device: Any, dtype: torch.dtype, dim: int) -> None:
    case = mmfs_attention_case(dim=dim)
    assert_agrees(run_mmfs_attention(device, case, dtype), case, dtype)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="everything"),
        pytest.param({"tables": False}, id="no-tables"),
        pytest.param({"null_value": False}, id="no-null-value"),
        pytest.param({"null_logit": None, "null_value": False}, id="plain-softmax"),
        pytest.param({"null_logit": None}, id="null-value-without-null"),
        pytest.param({"null_logit": 80.0}, id="large-null"),
        pytest.param({"num_ages": 1}, id="one-age"),
        pytest.param({"num_queries": 37, "num_points": 5}, id="many-rows"),
        pytest.param({"sizes": ((4, 7),)}, id="one-level"),
        pytest.param({"spread": 3.0}, id="mostly-outside"),
    ],
)
def test_mmfs_options(device: Any, options: dict[str, Any], deterministic: bool, falling: bool) -> None:
    """In both orders of threads: what a barrier is missing for comes out differently in one of them."""
    device.falling = falling
    case = mmfs_attention_case(**options)
    actual = run_mmfs_attention(device, case, torch.float32, deterministic=deterministic, keep_lse=falling)
    assert_agrees(actual, case, torch.float32)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"num_queries": 37, "num_points": 5}, id="many-rows"),
        pytest.param({"points_by_level": True, "num_slots": 9}, id="points-by-level"),
        pytest.param({"offsets_by_level": True, "points_by_sample": True}, id="offsets-by-level"),
    ],
)
def test_lists_of_images(device: Any, options: dict[str, Any], deterministic: bool, falling: bool) -> None:
    device.falling = falling
    case = image_lists_case(**options)
    actual = run_mmfs_attention(device, case, torch.float32, deterministic=deterministic, keep_lse=falling)
    assert_agrees(actual, case, torch.float32)


def test_splits_of_a_list_add_up(device: Any) -> None:
    case = image_lists_case(batch=1, num_queries=7, num_heads=1, num_points=9, num_slots=7)
    device.num_sms = 4
    actual = run_mmfs_attention(device, case, torch.float32)
    assert device.launched[0].grid[2] > 1
    assert_agrees(actual, case, torch.float32)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_ms_deform_attn_options(device: Any, deterministic: bool, falling: bool) -> None:
    device.falling = falling
    case = ms_deform_attn_case(num_queries=37, num_points=5)
    assert_agrees(run_ms_deform_attn(device, case, torch.float32, deterministic=deterministic), case, torch.float32)


@pytest.mark.parametrize("splits", [2, 7, 12])
def test_splits_of_a_row_add_up(device: Any, splits: int) -> None:
    """Some splits of some rows are empty: rows see 0 to 6 images."""
    case = mmfs_attention_case(batch=1, num_queries=7, num_heads=1, num_points=9)
    device.num_sms = splits // 2 + 1
    actual = run_mmfs_attention(device, case, torch.float32)
    grids = [launch.grid for launch in device.launched if launch.instance.kernel == "mmfs_attention_forward"]
    assert grids[0][2] > 1
    assert any(launch.instance.kernel == "merge_splits" for launch in device.launched)
    assert_agrees(actual, case, torch.float32)


def test_the_log_sum_exp_of_the_forward_serves_the_backward(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the operator, as on a GPU. A wrong log-sum-exp shows: the backward takes what it is given."""
    kept = []

    def launch(plan: Launch, arguments: KernelArguments) -> None:
        if plan.instance.kernel == "mmfs_attention_backward":
            kept.append(arguments.has_lse)
        device.launch(plan, arguments)

    emulated = SimpleNamespace(num_sms=1, shared_bytes=device.shared_bytes, launch=launch)
    monkeypatch.setattr(autograd, "implementation", lambda value: cuda)
    monkeypatch.setattr(cuda, "_device", lambda tensor: emulated)
    case = mmfs_attention_case()
    assert_agrees(case.run(mmfs_attention, torch.float32), case, torch.float32)
    assert kept == [True]
    leaf = case.tensors["value"].float().requires_grad_()
    tensors = {name: tensor.float() for name, tensor in case.tensors.items()} | {"value": leaf}
    out = mmfs_attention(**tensors, **case.rest)
    out.grad_fn.saved_tensors[-1].data.add_(1.0)
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    expected = torch.autograd.grad(mmfs_attention(**tensors, **case.rest, backend="reference").sum(), leaf)[0]
    torch.testing.assert_close(gradient, expected / math.e)


def test_splits_of_ms_deform_attn_add_up(device: Any) -> None:
    """A row with many samples, and the last part with fewer of them."""
    case = ms_deform_attn_case(batch=1, num_queries=3, num_heads=1, num_points=45, dim=12)
    device.num_sms = 9
    actual = run_ms_deform_attn(device, case, torch.float32)
    assert [launch.instance.kernel for launch in device.launched][:2] == ["ms_deform_attn_forward", "add_splits"]
    assert device.launched[0].grid == (1, 1, 3)
    assert_agrees(actual, case, torch.float32)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_images_of_different_sizes(device: Any, deterministic: bool) -> None:
    case = mmfs_attention_case()
    sizes = torch.tensor([[[4, 7], [3, 2]], [[1, 1], [2, 5]], [[6, 2], [1, 3]]]).repeat(2, 1, 1)  # [N, L, 2]
    num_pixels = int(sizes.prod(-1).sum())
    draw = torch.Generator().manual_seed(1)
    case.tensors["value"] = torch.randn(num_pixels, 2, 3, generator=draw, dtype=torch.float64)
    case.rest["spatial_shapes"] = sizes
    assert_agrees(run_mmfs_attention(device, case, torch.float32, deterministic=deterministic), case, torch.float32)


def test_sizes_that_do_not_fit_give_nan_and_no_access_outside(device: Any) -> None:
    case = mmfs_attention_case()
    case.tensors["value"] = case.tensors["value"].flatten(0, 1)
    case.rest["spatial_shapes"] = torch.tensor([(9, 9), (3, 2)]).expand(6, 2, 2)
    actual = run_mmfs_attention(device, case, torch.float32)
    sees = case.rest["visible"].diff(dim=-1).squeeze(-1) > 0
    assert actual["output"][sees].isnan().all()
    assert actual["output"][~sees].isfinite().all()


def test_a_range_beyond_the_bank_gives_nan_and_no_access_outside(device: Any) -> None:
    case = mmfs_attention_case()
    case.rest["visible"][0, 1] = torch.tensor([4, 7])
    case.rest["visible"][1, 2] = torch.tensor([-1, 3])
    case.rest["visible"][1, 3] = torch.tensor([9, 9])  # empty, and so allowed
    outside = torch.zeros(2, 5, dtype=torch.bool)
    outside[0, 1] = outside[1, 2] = True
    out = run_mmfs_attention(device, case, torch.float32)["output"]
    assert out[outside].isnan().all()
    assert out[~outside].isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30, -1e30])
def test_locations_that_are_not_finite_or_far_away(device: Any, bad: float) -> None:
    ms_deform_attn = ms_deform_attn_case()
    ms_deform_attn.tensors["sampling_locations"][:, ::2, 0, :, 0, 0] = bad
    ms_deform_attn.tensors["sampling_locations"][:, 1, 1, 0, :, 1] = bad
    actual = run_ms_deform_attn(device, ms_deform_attn, torch.float32)
    assert_agrees(actual, ms_deform_attn, torch.float32)
    assert actual["sampling_locations"][:, ::2, 0, :, 0].eq(0).all()
    mmfs_attention = mmfs_attention_case()
    mmfs_attention.tensors["sampling_offsets"][:, ::2, 0, 0, 0] = bad
    mmfs_attention.tensors["reference_points"][1, 3] = bad
    assert_agrees(run_mmfs_attention(device, mmfs_attention, torch.float32), mmfs_attention, torch.float32)


def test_cell_edges_and_borders(device: Any) -> None:
    """Locations on pixel centres, on the border, and one pixel outside: the cell decides about the slope."""
    case = ms_deform_attn_case(((4, 8),), batch=1, num_queries=9, num_points=5)
    columns = torch.tensor([-1.0, -0.5, 0.0, 0.5, 3.0, 6.5, 7.0, 7.5, 8.0], dtype=torch.float64)
    rows = torch.tensor([-1.0, 0.0, 1.5, 3.0, 4.0], dtype=torch.float64)
    locations = case.tensors["sampling_locations"]
    locations[..., 0] = ((columns + 0.5) / 8)[None, :, None, None, None]
    locations[..., 1] = ((rows + 0.5) / 4)[None, None, None, None]
    assert_agrees(run_ms_deform_attn(device, case, torch.float32), case, torch.float32)


def test_a_pixel_that_no_sample_touches_may_hold_anything(device: Any) -> None:
    case = ms_deform_attn_case(((4, 8),), low=0.2, high=0.43)  # between the centres of columns 1 and 3
    right_half = case.tensors["value"].view(2, 4, 8, 2, 3)[:, :, 4:]
    right_half.fill_(torch.nan)
    assert run_ms_deform_attn(device, case, torch.float32)["output"].isfinite().all()


@pytest.mark.parametrize("size", ["batch", "num_queries", "num_images", "num_points", "dim"])
def test_nothing(device: Any, size: str) -> None:
    mmfs_attention = mmfs_attention_case()
    if size == "num_images":
        mmfs_attention.tensors["value"] = mmfs_attention.tensors["value"][:0]
        mmfs_attention.rest["visible"].zero_()
    else:
        mmfs_attention = mmfs_attention_case(**{size: 0})
        ms_deform_attn = ms_deform_attn_case(**{size: 0})
        assert_agrees(run_ms_deform_attn(device, ms_deform_attn, torch.float32), ms_deform_attn, torch.float32)
    for deterministic in (False, True):
        assert_agrees(
            run_mmfs_attention(device, mmfs_attention, torch.float32, deterministic=deterministic),
            mmfs_attention,
            torch.float32,
        )


def test_mixed_dtypes_strides_and_alignment(device: Any) -> None:
    """A bfloat16 value off its alignment, transposed float64 weights, and locations that stay float32."""
    case = ms_deform_attn_case(dim=8)
    value, locations, weights = case.tensors.values()
    shifted = torch.zeros(value.numel() + 1, dtype=torch.bfloat16)[1:].view(value.shape).copy_(value)
    transposed = weights.transpose(0, 4).contiguous().transpose(0, 4)
    arguments = MSDeformAttnArguments(shifted, FLAT, locations.float(), transposed)
    out = calls.ms_deform_attn_forward(device, arguments)
    expected = ms_deform_attn_reference(arguments)
    assert device.launched[0].instance.arguments[0] == 1
    torch.testing.assert_close(out, expected, atol=0.02, rtol=0.01)
    gradients = calls.ms_deform_attn_backward(device, torch.ones_like(out), arguments, needs_value=False)
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float64]
    assert gradients[0].numel() == 0


def test_deterministic_gradient_does_not_depend_on_the_order_of_threads(device: Any) -> None:
    """What `torch.use_deterministic_algorithms` promises: equal bit for bit."""
    case = mmfs_attention_case(num_queries=37)
    results = []
    for falling in (False, True):
        device.falling = falling
        results.append(run_mmfs_attention(device, case, torch.float32, deterministic=True))
    for one, other in zip(results[0].values(), results[1].values(), strict=True):
        assert torch.equal(one, other)


def test_a_block_asks_for_more_shared_memory_where_it_must(device: Any) -> None:
    case = mmfs_attention_case(batch=1, num_queries=3, num_images=2, num_heads=1, num_points=300)
    actual = run_mmfs_attention(device, case, torch.float32)
    (launch,) = [launch for launch in device.launched if launch.instance.kernel == "mmfs_attention_backward"]
    assert launch.threads == 32
    assert launch.shared_bytes > 48 * 1024
    assert_agrees(actual, case, torch.float32)


def test_too_many_levels_or_points_are_refused_by_name(device: Any) -> None:
    levels = [1, 1] * 17
    with pytest.raises(ValueError, match="spatial_shapes has 17 levels"):
        calls.ms_deform_attn_forward(
            device,
            MSDeformAttnArguments(
                torch.zeros(1, 17, 1, 1), levels, torch.zeros(1, 1, 1, 17, 1, 2), torch.zeros(1, 1, 1, 17, 1)
            ),
        )
    case = mmfs_attention_case(num_points=900)
    with pytest.raises(ValueError, match="levels times points is 1800"):
        run_mmfs_attention(device, case, torch.float32)
