"""The layers against the paper's Eq. 4 written out, the released code's results, and Deformable-DETR's definition."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mmfs import MMFS, MSDeformAttn, MultiScaleDeformableAttention, autograd, layer
from numerics import assert_equal_up_to_rounding
from op_cases import ms_deform_attn_by_grid_sample, ms_deform_attn_case

SIZES = ((4, 7), (3, 2))
NUM_PIXELS = 34
DATA = Path(__file__).parent.parent / "data"


def small_mmfs(**options: object) -> MMFS:
    """float64, every parameter random: nothing is zero by initialisation."""
    settings = {"spatial_shapes": SIZES, "num_heads": 2, "num_points": 3, "max_age": 4, "base": (5, 3)}
    mmfs = MMFS(12, 8, **(settings | {"value_dim": 10, "output_dim": 9} | options)).double()  # type: ignore[arg-type]
    for parameter in mmfs.parameters():
        nn.init.normal_(parameter, std=0.5)
    return mmfs


def small_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """query [2, 6, 12], reference points [2, 6, 2], visible [2, 6, 2], features [5, S, 8]."""
    count = torch.arange(12).view(2, 6) % 6
    first = (torch.rand(2, 6) * (6 - count)).long()
    return (
        torch.randn(2, 6, 12, dtype=torch.float64),
        torch.rand(2, 6, 2, dtype=torch.float64),
        torch.stack([first, first + count], dim=-1),
        torch.randn(5, NUM_PIXELS, 8, dtype=torch.float64),
    )


def equation_4(mmfs: MMFS, query: Tensor, points: Tensor, visible: Tensor, features: Tensor) -> Tensor:
    """The paper's Eq. 4 for one query at a time: the query is repeated for each image and PosEmbed is added."""
    rows = []
    base = torch.tensor(mmfs.base, dtype=query.dtype)
    for b in range(query.shape[0]):
        for q in range(query.shape[1]):
            first, last = visible[b, q].tolist()
            images = range(first, last)
            values = mmfs.value_proj(features[first:last]).view(len(images), NUM_PIXELS, mmfs.num_heads, 5)
            repeated = mmfs.query_proj(query[b, q]).expand(len(images), -1)  # [M, C]
            position = [mmfs.age_embedding[min(last - m, mmfs.max_age) - 1] for m in images]
            repeated = repeated + (torch.stack(position) if position else 0)
            offsets = mmfs.sampling_offsets(repeated).view(len(images), mmfs.num_heads, mmfs.num_points, 2)
            logits = mmfs.attention_weights(repeated).view(
                len(images), mmfs.num_heads, mmfs.num_levels, mmfs.num_points
            )
            heads = []
            for head in range(mmfs.num_heads):
                head_logits = logits[:, head].flatten()
                if mmfs.null_value is not None:
                    head_logits = torch.cat([head_logits, head_logits.new_zeros(1)])
                weights = head_logits.softmax(0)
                total = torch.zeros(values.shape[-1], dtype=query.dtype)
                if mmfs.null_value is not None:
                    total = total + weights[-1] * mmfs.null_value[head]
                share = iter(weights)
                for m in range(len(images)):
                    grid = 2 * (points[b, q] + offsets[m, head] / base)[None, None] - 1
                    for level, (h, w) in enumerate(mmfs.spatial_shapes):
                        start = sum(height * width for height, width in mmfs.spatial_shapes[:level])
                        plane = values[m, start : start + h * w, head].T.reshape(1, -1, h, w)
                        samples = F.grid_sample(plane, grid, align_corners=False)[0, :, 0]  # [D, P]
                        for p in range(mmfs.num_points):
                            total = total + next(share) * samples[:, p]
                heads.append(total)
            rows.append(mmfs.output_proj(torch.cat(heads)))
    return torch.stack(rows).view(*query.shape[:2], mmfs.output_dim)


@pytest.mark.parametrize("null", [True, False])
def test_mmfs_is_equation_4(null: bool) -> None:
    mmfs = small_mmfs(null=null)
    query, points, visible, features = small_inputs()
    assert visible.diff(dim=-1).max() > mmfs.max_age, "no query sees images older than the table"
    inputs = [query.requires_grad_(), points.requires_grad_(), features.requires_grad_(), *mmfs.parameters()]
    expected = equation_4(mmfs, query, points, visible, features)
    actual = mmfs(query, points, visible, features=features)
    assert (actual - expected).abs().max() < 1e-13
    weighting = torch.randn_like(expected)
    for gradient, exact in zip(
        torch.autograd.grad(actual, inputs, weighting), torch.autograd.grad(expected, inputs, weighting), strict=True
    ):
        assert (gradient - exact).abs().max() < 1e-11 * exact.abs().max()


@pytest.mark.parametrize("name", ["mmfs_llm", "mmfs_unet"])
def test_mmfs_equals_the_released_layer(name: str) -> None:
    """Output and gradients of the released code, which repeats queries and has slots instead of a null logit."""
    oracle = load_file(DATA / f"released_{name}.safetensors")
    weights = {key.removeprefix("state_dict."): t.float() for key, t in oracle.items() if key.startswith("state_dict.")}
    side, num_levels = {"mmfs_llm": (8, 3), "mmfs_unet": (4, 4)}[name]
    sizes = [(2 * side >> level, 2 * side >> level) for level in range(num_levels)]
    mmfs = MMFS(48, 32, spatial_shapes=sizes, num_heads=4, num_points=5, value_dim=32, max_age=9, base=side)
    load_released(mmfs, weights)

    mask = oracle["mask"].bool()  # [B, Q, M] or [B, M]; the images of a row lie side by side in the bank
    batch, num_queries, num_images = 2, 7, 3
    mask = mask.view(batch, -1, num_images).expand(batch, num_queries, num_images)
    index = torch.arange(num_images)
    first = torch.where(mask, index, num_images).amin(-1)
    last = torch.where(mask, index + 1, 0).amax(-1)
    first = torch.minimum(first, last)
    assert torch.equal(mask, (index >= first[..., None]) & (index < last[..., None])), "the mask is not a range"
    row = torch.arange(batch)[:, None] * num_images
    visible = torch.stack([first + row, last + row], dim=-1)

    query = oracle["query"].requires_grad_()
    features = oracle["feats"].requires_grad_()  # [B, M, S, C]
    out = mmfs(query, oracle["reference_points"], visible, features=features.flatten(0, 1))
    assert (out - oracle["output"]).abs().max() < 1e-5
    grad_query, grad_features = torch.autograd.grad(out.square().sum(), [query, features])  # what the oracle took
    assert (grad_query - oracle["grad_query"]).abs().max() < 1e-5 * oracle["grad_query"].abs().max().clamp(min=1)
    assert (grad_features - oracle["grad_feats"]).abs().max() < 1e-5 * oracle["grad_feats"].abs().max().clamp(min=1)
    assert oracle["output"].abs().max() > 0.1, "the oracle is too small for an absolute tolerance"


def load_released(mmfs: MMFS, weights: dict[str, Tensor]) -> None:
    """Row 0 of the released age table belongs to masked images, and slot P of each level to the null logit."""
    per_level = (mmfs.num_heads, mmfs.num_levels, mmfs.num_points + 1)
    state = {
        "age_embedding": weights["query_relpos.weight"][1:],
        "attention_weights.weight": weights["attention_weights.weight"]
        .unflatten(0, per_level)[:, :, :-1]
        .flatten(0, 2),
        "attention_weights.bias": weights["attention_weights.bias"].unflatten(0, per_level)[:, :, :-1].flatten(),
        "null_value": weights["ignore_token"].view(mmfs.num_heads, -1),
    }
    for ours, theirs in {
        "query_proj": "dynamic_offset_mask",
        "sampling_offsets": "sampling_offsets",
        "value_proj": "value_proj",
        "output_proj": "output_proj",
    }.items():
        state |= {f"{ours}.{part}": weights[f"{theirs}.{part}"] for part in ("weight", "bias")}
    mmfs.load_state_dict(state)


def test_values_projected_once_serve_every_call() -> None:
    mmfs = small_mmfs()
    query, points, visible, features = small_inputs()
    values = mmfs.project_values(features)
    assert values.shape == (5, NUM_PIXELS, 2, 5)
    once = mmfs(query, points, visible, values=values)
    assert_equal_up_to_rounding(once, mmfs(query, points, visible, features=features))


def test_images_of_different_sizes_equal_a_layer_for_each() -> None:
    """Image 0 has the layer's sizes, image 1 others; a query sees one of them, or both."""
    mmfs = small_mmfs()
    query, points, _, features = small_inputs()
    others = [(2, 3), (5, 1)]
    sizes = torch.tensor([SIZES, others])
    of_other = small_mmfs(spatial_shapes=others)
    of_other.load_state_dict(mmfs.state_dict())
    first, second = features[:1], features[1:2, :11]
    both = torch.cat([first[0], second[0]]).requires_grad_()

    sees_first, sees_second = (torch.tensor(seen).expand(2, 6, 2) for seen in ([0, 1], [1, 2]))
    only = torch.tensor([0, 1]).expand(2, 6, 2)
    for visible, layer_alone, alone in ((sees_first, mmfs, first), (sees_second, of_other, second)):
        out = mmfs(query, points, visible, features=both, spatial_shapes=sizes)
        torch.testing.assert_close(out, layer_alone(query, points, only, features=alone))
    values = mmfs.project_values(both)
    assert values.shape == (NUM_PIXELS + 11, 2, 5)
    sees_both = torch.tensor([0, 2]).expand(2, 6, 2)
    out = mmfs(query, points, sees_both, values=values, spatial_shapes=sizes)
    (gradient,) = torch.autograd.grad(out.square().sum(), both)
    assert gradient[:NUM_PIXELS].abs().sum() > 0
    assert gradient[NUM_PIXELS:].abs().sum() > 0


def test_base_can_be_given_with_the_call() -> None:
    mmfs = small_mmfs(base=7)
    other = small_mmfs(base=(2, 3))
    other.load_state_dict(mmfs.state_dict())
    query, points, visible, features = small_inputs()
    overridden = mmfs(query, points, visible, features=features, base=(2, 3))
    assert_equal_up_to_rounding(overridden, other(query, points, visible, features=features))
    assert not torch.allclose(overridden, mmfs(query, points, visible, features=features))


def test_a_query_without_images_gets_the_projected_null_value() -> None:
    query, points, _, features = small_inputs()
    none = torch.zeros(2, 6, 2, dtype=torch.long)
    mmfs = small_mmfs()
    assert mmfs.null_value is not None
    expected = mmfs.output_proj(mmfs.null_value.flatten())
    torch.testing.assert_close(mmfs(query, points, none, features=features), expected.expand(2, 6, 9))
    mmfs = small_mmfs(null=False)
    torch.testing.assert_close(mmfs(query, points, none, features=features), mmfs.output_proj.bias.expand(2, 6, 9))


def test_no_queries_and_no_images() -> None:
    mmfs = small_mmfs()
    query, points, visible, features = small_inputs()
    assert mmfs(query[:, :0], points[:, :0], visible[:, :0], features=features).shape == (2, 0, 9)
    assert mmfs(query, points, visible * 0, features=features[:0]).shape == (2, 6, 9)


def test_nothing_of_size_queries_times_images_times_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 images, 512 channels: the op receives tensors per query and per age, never per query and age."""
    mmfs = MMFS(512, 8, spatial_shapes=[(2, 2)], num_heads=2, num_points=2, max_age=64)
    sizes = []
    compute = layer.mmfs_attention

    def measured(*tensors: Tensor, **others: Tensor) -> Tensor:
        sizes.extend(t.numel() for t in [*tensors, *others.values()] if isinstance(t, Tensor))
        return compute(*tensors, **others)

    monkeypatch.setattr(layer, "mmfs_attention", measured)
    visible = torch.tensor([0, 64]).expand(1, 32, 2)
    mmfs(torch.randn(1, 32, 512), torch.tensor([0.5, 0.5]), visible, features=torch.randn(64, 4, 8))
    assert max(sizes) == 64 * 4 * 512, "the bank is the largest tensor"
    assert max(sizes) < 32 * 64 * 512


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_locations_of_a_half_layer_are_float32(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    mmfs = small_mmfs().to(dtype)
    query, points, visible, features = small_inputs()
    seen = {}
    compute = layer.mmfs_attention

    def watched(
        values: Tensor, sizes: object, points: Tensor, offsets: Tensor, *rest: Tensor, **named: Tensor
    ) -> Tensor:
        seen.update(points=points.dtype, offsets=offsets.dtype, table=named["offset_table"].dtype)
        return compute(values, sizes, points, offsets, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(layer, "mmfs_attention", watched)
    out = mmfs(query.to(dtype), points.float(), visible, features=features.to(dtype))
    assert out.dtype == dtype
    assert set(seen.values()) == {torch.float32}


def test_autocast_to_bfloat16_stays_close() -> None:
    mmfs = small_mmfs().float()
    query, points, visible, features = (t.float() if t.is_floating_point() else t for t in small_inputs())
    exact = mmfs(query, points, visible, features=features)
    with torch.autocast("cpu", torch.bfloat16):
        out = mmfs(query, points, visible, features=features)
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 0.05 * exact.abs().max()
    out.float().sum().backward()
    assert all(parameter.grad is not None for parameter in mmfs.parameters())


@pytest.mark.parametrize(("offset_init", "cells"), [("uniform", 3.0), ("grid", 6.0)])
def test_points_of_a_fresh_layer_differ_and_stay_in_their_region(offset_init: str, cells: float) -> None:
    mmfs = small_mmfs(num_points=8, value_dim=12)
    fresh = MMFS(
        12, 8, spatial_shapes=SIZES, num_heads=4, num_points=8, offset_init=offset_init, offset_init_cells=cells
    )
    offsets = fresh.sampling_offsets.bias.view(-1, 2)
    assert offsets.abs().max() <= cells
    assert offsets.abs().max() > 0.7 * cells
    assert torch.cdist(offsets, offsets).fill_diagonal_(1.0).min() > 1e-3
    assert (fresh.sampling_offsets.weight == 0).all()
    assert fresh.null_value is not None
    assert (fresh.null_value == 0).all()
    assert mmfs.sampling_offsets.bias.shape == (2 * 8 * 2,)


def test_a_grid_covers_its_square_evenly() -> None:
    mmfs = MMFS(8, 8, spatial_shapes=SIZES, num_heads=4, num_points=4, offset_init="grid", offset_init_cells=2.0)
    offsets = mmfs.sampling_offsets.bias.view(4, 4, 2)
    lines = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    expected = {(x, y) for x in lines.tolist() for y in lines.tolist()}
    assert {(x, y) for x, y in offsets.flatten(0, 1).tolist()} == expected


def test_reset_parameters_makes_a_loaded_layer_fresh() -> None:
    mmfs = small_mmfs().float()
    torch.manual_seed(3)
    mmfs.reset_parameters()
    torch.manual_seed(3)
    settings = {"spatial_shapes": SIZES, "num_heads": 2, "num_points": 3, "max_age": 4, "base": (5, 3)}
    fresh = MMFS(12, 8, **settings, value_dim=10, output_dim=9)  # type: ignore[arg-type]
    torch.manual_seed(3)
    fresh.reset_parameters()
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, mmfs.get_parameter(name)), name


def test_wrong_use_of_mmfs() -> None:
    mmfs = small_mmfs()
    query, points, visible, features = small_inputs()
    with pytest.raises(ValueError, match=r"neither of features and values given. Expected features"):
        mmfs(query, points, visible)
    with pytest.raises(ValueError, match="both of features and values given"):
        mmfs(query, points, visible, features=features, values=mmfs.project_values(features))
    with pytest.raises(ValueError, match=r"query has shape \[2, 6, 11\]. Expected \[B, Q, query_dim = 12\]"):
        mmfs(query[..., 1:], points, visible, features=features)
    with pytest.raises(ValueError, match=r"features has shape \[5, 33, 8\]. Expected .* \[N, 34, 8\]"):
        mmfs(query, points, visible, features=features[:, 1:])
    with pytest.raises(ValueError, match=r"features has shape \[170, 7\]. .* differ in size, \[total pixels, 8\]"):
        mmfs.project_values(features.flatten(0, 1)[:, 1:])
    with pytest.raises(ValueError, match=r"value has shape \[170, 2, 5\]. Expected \[N, S, H, D\]"):
        mmfs(query, points, visible, features=features.flatten(0, 1))
    with pytest.raises(ValueError, match=r"features has shape \[5, 34, 7\]"):
        mmfs.project_values(features[..., 1:])
    with pytest.raises(ValueError, match="visible holds the range"):
        mmfs(query, points, visible + 1, features=features)
    with pytest.raises(ValueError, match=r"value_dim is 12 with num_heads 5. Expected a multiple"):
        MMFS(12, 8, spatial_shapes=SIZES, num_heads=5)
    with pytest.raises(ValueError, match=r"spatial_shapes is \[16, 8\]. Expected at least one \(h, w\)"):
        MMFS(12, 8, spatial_shapes=[16, 8], num_heads=4)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="max_age is 0"):
        MMFS(12, 8, spatial_shapes=SIZES, num_heads=4, max_age=0)
    with pytest.raises(ValueError, match=r"offset_init is 'ring'. Expected 'uniform' or 'grid'"):
        MMFS(12, 8, spatial_shapes=SIZES, num_heads=4, offset_init="ring")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "error", "sentence"),
    [
        ({"num_heads": 0}, ValueError, "num_heads is 0. Expected at least 1"),
        ({"num_points": 0}, ValueError, "num_points is 0. Expected at least 1"),
        ({"num_points": -1}, ValueError, "num_points is -1. Expected at least 1"),
        ({"num_points": 2.0}, TypeError, "num_points is 2.0. Expected an int"),
        ({"query_dim": 0}, ValueError, "query_dim is 0. Expected at least 1"),
        ({"feature_dim": "8"}, TypeError, "feature_dim is '8'. Expected an int"),
        ({"value_dim": 0}, ValueError, "value_dim is 0. Expected at least 1"),
        ({"output_dim": -9}, ValueError, "output_dim is -9. Expected at least 1"),
        ({"base": 0}, ValueError, r"base is \(0, 0\). Expected at least 1 cell each way"),
        ({"base": (5, -3)}, ValueError, r"base is \(5, -3\). Expected at least 1 cell each way"),
        ({"base": 2.5}, TypeError, r"base is 2.5. Expected an int, or two of them, \(w, h\)"),
        ({"base": (5, 3.5)}, TypeError, r"base is \(5, 3.5\). Expected an int, or two of them"),
        ({"base": [(5, 3), (3, 2)]}, TypeError, r"base is \[\(5, 3\), \(3, 2\)\]. Expected an int, or two of them"),
    ],
)
def test_sizes_that_no_mmfs_has(wrong: dict[str, object], error: type[Exception], sentence: str) -> None:
    settings = {"query_dim": 12, "feature_dim": 8, "spatial_shapes": SIZES, "num_heads": 4, "num_points": 2} | wrong
    with pytest.raises(error, match=sentence):
        MMFS(**settings)  # type: ignore[arg-type]


def test_dtypes_of_a_call_that_differ_are_named() -> None:
    mmfs = small_mmfs().float()
    query, points, visible, features = (t.float() if t.is_floating_point() else t for t in small_inputs())
    values = mmfs.project_values(features)
    sentence = "values are bfloat16, query float32, parameters float32. Expected one dtype, or autocast"
    with pytest.raises(TypeError, match=sentence):
        mmfs(query, points, visible, values=values.bfloat16())
    with pytest.raises(TypeError, match="features are float32, query bfloat16, parameters float32"):
        mmfs(query.bfloat16(), points, visible, features=features)
    with pytest.raises(TypeError, match="values are float32, query float32, parameters float16"):
        small_mmfs().half()(query, points, visible, values=values)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mmfs(query, points, visible, values=values.bfloat16())
    assert (mixed - mmfs(query, points, visible, values=values)).abs().max() < 0.1


def test_inputs_that_are_no_tensors_are_named() -> None:
    mmfs = small_mmfs()
    query, points, visible, features = small_inputs()
    with pytest.raises(TypeError, match=r"query is a ndarray. Expected a tensor"):
        mmfs(query.numpy(), points, visible, features=features)
    with pytest.raises(TypeError, match=r"features is a ndarray. Expected a tensor"):
        mmfs(query, points, visible, features=features.numpy())
    with pytest.raises(TypeError, match=r"values is a ndarray. Expected a tensor"):
        mmfs(query, points, visible, values=mmfs.project_values(features).detach().numpy())


def layers_with(**options: Any) -> list[nn.Module]:
    return [
        small_mmfs(**options),
        MSDeformAttn(12, n_levels=2, n_heads=2, n_points=3, **options).double(),
        MultiScaleDeformableAttention(**options),
    ]


def called(module: nn.Module) -> Tensor:
    torch.manual_seed(0)
    if isinstance(module, MultiScaleDeformableAttention):
        tensors = ms_deform_attn_case(SIZES).tensors
        sizes, nothing = torch.tensor(SIZES), torch.tensor([])
        result: Tensor = module(tensors.pop("value"), sizes, list(SIZES), nothing, *tensors.values(), 64)
        return result
    query, points, visible, features = small_inputs()
    if isinstance(module, MMFS):
        return module(query, points, visible, features=features)
    return module(query, points[:, :, None], torch.randn(2, NUM_PIXELS, 12).double(), SIZES)


@pytest.mark.parametrize("number", range(3))
def test_layers_compute_by_the_backend_they_were_given(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free, reference = layers_with()[number], layers_with(backend="reference")[number]
    reference.load_state_dict(free.state_dict())
    assert reference.state_dict().keys() == free.state_dict().keys()
    expected = called(free)

    def refuse(*_: object) -> None:
        raise AssertionError("a kernel was asked")

    monkeypatch.setattr(autograd, "implementation", refuse)
    with pytest.raises(AssertionError, match="a kernel was asked"):
        called(free)
    for module in (reference, copy.deepcopy(reference), pickle.loads(pickle.dumps(reference))):
        assert_equal_up_to_rounding(called(module), expected)


@pytest.mark.parametrize("kind", [MMFS, MSDeformAttn, MultiScaleDeformableAttention])
def test_a_backend_that_does_not_exist_is_refused_when_the_layer_is_made(kind: Any) -> None:
    options = {"query_dim": 12, "feature_dim": 8, "spatial_shapes": SIZES, "num_heads": 2} if kind is MMFS else {}
    with pytest.raises(ValueError, match=r"backend is 'triton'. Expected None, 'reference', 'cpu' or 'cuda'"):
        kind(**options, backend="triton")


@pytest.mark.parametrize("number", range(3))
def test_a_layer_that_was_pickled_without_a_backend_has_none(number: int) -> None:
    module = layers_with()[number]
    del module.__dict__["backend"]
    assert_equal_up_to_rounding(called(pickle.loads(pickle.dumps(module))), called(module))


def test_layers_describe_themselves() -> None:
    assert "spatial_shapes=[(4, 7), (3, 2)], num_heads=2, num_points=3" in repr(small_mmfs())
    assert "null=True" in repr(small_mmfs())
    assert "d_model=16, n_levels=2, n_heads=4, n_points=3, ratio=0.5" in repr(MSDeformAttn(16, 2, 4, 3, 0.5))


def small_msda(ratio: float = 0.5) -> MSDeformAttn:
    msda = MSDeformAttn(16, n_levels=2, n_heads=4, n_points=3, ratio=ratio).double()
    for parameter in msda.parameters():
        nn.init.normal_(parameter, std=0.5)
    return msda


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_msdeformattn_is_deformable_detrs(boxes: bool, ratio: float) -> None:
    """Zhu et al., Eq. 3, and for boxes A.2: offsets are in pixels of the level, or in halves of the box over P."""
    msda = small_msda(ratio)
    query = torch.randn(2, 5, 16, dtype=torch.float64)
    image = torch.randn(2, NUM_PIXELS, 16, dtype=torch.float64)
    points = torch.rand(2, 5, 2, 4 if boxes else 2, dtype=torch.float64)
    padding = torch.rand(2, NUM_PIXELS) < 0.3

    value = msda.value_proj(image) * ~padding[..., None]
    offsets = msda.sampling_offsets(query).view(2, 5, 4, 2, 3, 2)
    weights = msda.attention_weights(query).view(2, 5, 4, 6).softmax(-1).view(2, 5, 4, 2, 3)
    locations = torch.empty_like(offsets)
    for level, (h, w) in enumerate(SIZES):
        for axis, size in enumerate((w, h)):
            point = points[:, :, level, axis, None, None]
            step = points[:, :, level, 2 + axis, None, None] / 2 / 3 if boxes else 1 / size
            locations[:, :, :, level, :, axis] = point + offsets[:, :, :, level, :, axis] * step
    sampled = ms_deform_attn_by_grid_sample(value.view(2, NUM_PIXELS, 4, -1), SIZES, locations, weights)
    expected = msda.output_proj(sampled)

    assert (msda(query, points, image, SIZES, None, padding) - expected).abs().max() < 1e-13
    tensor_sizes = torch.tensor(SIZES)
    starts = torch.tensor([0, 28])
    assert (msda(query, points, image, tensor_sizes, starts, padding) - expected).abs().max() < 1e-13


def test_reference_points_of_msdeformattn_broadcast() -> None:
    msda = small_msda()
    query, image = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, NUM_PIXELS, 16, dtype=torch.float64)
    points = torch.rand(1, 5, 1, 2, dtype=torch.float64)
    expanded = msda(query, points.expand(2, 5, 2, 2), image, SIZES)
    assert_equal_up_to_rounding(msda(query, points, image, SIZES), expanded)


def test_msdeformattn_has_the_original_names_and_ring() -> None:
    msda = MSDeformAttn()
    shapes = {name: tuple(parameter.shape) for name, parameter in msda.state_dict().items()}
    assert shapes == {
        "sampling_offsets.weight": (8 * 4 * 4 * 2, 256),
        "sampling_offsets.bias": (8 * 4 * 4 * 2,),
        "attention_weights.weight": (8 * 4 * 4, 256),
        "attention_weights.bias": (8 * 4 * 4,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }
    ring = msda.sampling_offsets.bias.view(8, 4, 4, 2)  # [H, L, P, (x, y)]
    for head in range(8):
        angle = 2 * math.pi * head / 8
        x, y = math.cos(angle), math.sin(angle)
        for point in range(4):
            expected = torch.tensor([x, y]) / max(abs(x), abs(y)) * (point + 1)
            torch.testing.assert_close(ring[head, :, point], expected.expand(4, 2))


def test_wrong_use_of_msdeformattn() -> None:
    msda = small_msda()
    query, image = torch.randn(2, 5, 16).double(), torch.randn(2, NUM_PIXELS, 16).double()
    points = torch.rand(2, 5, 2, 2).double()
    with pytest.raises(ValueError, match=r"reference_points has shape \[2, 5, 2\]. Expected \[B, Q, L, 2\]"):
        msda(query, points[..., 0], image, SIZES)
    with pytest.raises(ValueError, match=r"reference_points has shape \[2, 5, 2, 3\]"):
        msda(query, torch.rand(2, 5, 2, 3).double(), image, SIZES)
    with pytest.raises(ValueError, match=r"query has shape \[2, 5, 15\]. Expected \[B, Q, d_model = 16\]"):
        msda(query[..., 1:], points, image, SIZES)
    with pytest.raises(ValueError, match=r"input_flatten has shape \[1, 34, 16\]. Expected .* with B = 2"):
        msda(query, points, image[:1], SIZES)
    with pytest.raises(ValueError, match=r"input_spatial_shapes has 1 level; the layer has n_levels = 2."):
        msda(query, points, image, [(4, 7)])
    with pytest.raises(ValueError, match=r"input_spatial_shapes has 3 levels; the layer has n_levels = 2."):
        msda(query, points, image, torch.tensor([*SIZES, (1, 1)]))
    with pytest.raises(ValueError, match="describe 28 pixels but value holds 34"):
        msda(query, points, image, [(4, 5), (4, 2)])
    with pytest.raises(ValueError, match=r"d_model 16 \* ratio 0.5 is 8 with n_heads 3"):
        MSDeformAttn(16, n_heads=3, ratio=0.5)
    with pytest.raises(ValueError, match=r"d_model 16 \* ratio 0.01 is 0 with n_heads 4"):
        MSDeformAttn(16, n_heads=4, ratio=0.01)
    for name in ("d_model", "n_levels", "n_heads", "n_points"):
        with pytest.raises(ValueError, match=f"{name} is 0. Expected at least 1"):
            MSDeformAttn(**{name: 0})


def add_adapters(mmfs: MMFS, *, merged: bool) -> None:
    """To every projection, by peft."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    names = [name for name, module in mmfs.named_modules() if isinstance(module, nn.Linear)]
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=names, r=4, init_lora_weights=False), mmfs)
    mmfs.double().eval()
    for name in names:
        if merged:
            mmfs.get_submodule(name).merge()


def normalise_weights(mmfs: MMFS) -> None:
    """The same function, by weights that are computed from others."""
    for name in ("query_proj", "sampling_offsets", "attention_weights"):
        parametrizations.weight_norm(mmfs.get_submodule(name))


def hook(mmfs: MMFS) -> None:
    for name in ("sampling_offsets", "attention_weights"):
        mmfs.get_submodule(name).register_forward_hook(lambda _module, _args, output: 2 * output)


@torch.no_grad()
def double(mmfs: MMFS) -> None:
    for name in ("sampling_offsets", "attention_weights"):
        for parameter in mmfs.get_submodule(name).parameters():
            parameter *= 2


class Halves(nn.Module):
    """No `weight` to read: the sum of two projections."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.parts = nn.ModuleList([copy.deepcopy(whole), copy.deepcopy(whole)])
        with torch.no_grad():
            for parameter in self.parts.parameters():
                parameter /= 2

    def forward(self, rows: Tensor) -> Tensor:
        return self.parts[0](rows) + self.parts[1](rows)


def halve(mmfs: MMFS) -> None:
    for name, module in list(mmfs.named_children()):
        setattr(mmfs, name, Halves(module))


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (lambda mmfs: add_adapters(mmfs, merged=False), lambda mmfs: add_adapters(mmfs, merged=True)),
        (normalise_weights, lambda mmfs: None),
        (hook, double),
        (halve, lambda mmfs: None),
    ],
    ids=["adapters", "computed weights", "hooks", "other modules"],
)
def test_projections_are_called_as_modules(changed: Callable[[MMFS], None], same: Callable[[MMFS], None]) -> None:
    """The tables of the ages too."""
    ours = small_mmfs()
    theirs = copy.deepcopy(ours)
    changed(ours)
    same(theirs)
    query, points, visible, features = small_inputs()
    found, expected = (one(query, points, visible, features=features) for one in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_eight_bit_projections_of_pytorch() -> None:
    mmfs = small_mmfs().float()
    inputs = [part.float() if part.is_floating_point() else part for part in small_inputs()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to torchao
        quantised = torch.ao.quantization.quantize_dynamic(mmfs, {nn.Linear}, dtype=torch.qint8)
    assert not any(isinstance(module, nn.Linear) for module in quantised.modules())
    query, points, visible, features = inputs
    found, expected = (one(query, points, visible, features=features) for one in (quantised, mmfs))
    assert float((found - expected).norm() / expected.norm()) < 0.2
