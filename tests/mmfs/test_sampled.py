"""Locations and weights rebuild what the op returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmfs import MMFS, ms_deform_attn
from mmfs.arguments import MMFSAttentionArguments
from mmfs.reference import mmfs_attention_reference
from mmfs.sampled import Sampled, sampled
from op_cases import NOT_SQUARE, arguments_of, image_lists_case, mmfs_attention_case


def rebuilt(found: Sampled, arguments: MMFSAttentionArguments) -> torch.Tensor:
    """What the op returns, [B, Q, H*D], by the other op, image after image."""
    batch, queries, num_images, heads = found.attention_weights.shape[:4]
    out = torch.zeros(batch, queries, heads, arguments.value.shape[-1], dtype=found.null_weights.dtype)
    for b in range(batch):
        for q in range(queries):
            for m in range(num_images):
                image = int(found.images[b, q, m])
                if image >= 0:
                    sample = ms_deform_attn(
                        arguments.value[image, None],
                        NOT_SQUARE,
                        found.sampling_locations[b, q, m][None, None],
                        found.attention_weights[b, q, m][None, None],
                        backend="reference",
                    )
                    out[b, q] += sample.view(heads, -1)
    if arguments.null_value is not None:
        out = out + found.null_weights[..., None] * arguments.null_value
    return out.flatten(2)


@pytest.mark.parametrize(
    "options",
    [{}, {"null_logit": None}, {"null_logit": None, "null_value": False, "tables": False}, {"num_ages": 1}],
    ids=["all", "no-null-logit", "paper", "one-age"],
)
def test_locations_and_weights_rebuild_the_output(options: dict[str, Any]) -> None:
    case = mmfs_attention_case(**options)
    arguments = arguments_of(**case.tensors, **case.rest)
    found = sampled(arguments._replace(value=torch.empty(0), spatial_shapes=(), null_value=None))
    assert (rebuilt(found, arguments) - mmfs_attention_reference(arguments)).abs().max() < 1e-13
    total = found.attention_weights.sum((2, 4, 5)) + found.null_weights
    torch.testing.assert_close(total, torch.ones_like(total))
    seen = found.images >= 0
    assert (seen.sum(-1) == (arguments.visible[..., 1] - arguments.visible[..., 0]).clamp(min=0)).all()
    assert (found.images.diff(dim=-1)[seen[..., 1:]] == 1).all(), "the oldest first, without gaps"
    assert (found.attention_weights[~seen] == 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"points_by_level": True, "points_by_sample": True, "offsets_by_level": True},
        {"null_logit": None, "null_value": False, "tables": False},
        {"num_slots": 1},
        {"num_slots": 0},
    ],
    ids=["one-point-an-image", "points-by-sample", "paper", "one-slot", "no-slots"],
)
def test_lists_of_images_rebuild_the_output(options: dict[str, Any]) -> None:
    case = image_lists_case(**options)
    arguments = arguments_of(**case.tensors, **case.rest)
    found = sampled(arguments._replace(value=torch.empty(0), spatial_shapes=(), null_value=None))
    assert (rebuilt(found, arguments) - mmfs_attention_reference(arguments)).abs().max() < 1e-13
    total = found.attention_weights.sum((2, 4, 5)) + found.null_weights
    torch.testing.assert_close(total, torch.ones_like(total))
    assert torch.equal(found.images, case.rest["image_indices"]), "each slot is itself"
    assert (found.attention_weights[found.images < 0] == 0).all()


def test_a_reversed_bank_has_its_oldest_image_first_too() -> None:
    case = mmfs_attention_case()
    arguments = arguments_of(**case.tensors, **case.rest)
    found, reversed_ = sampled(arguments), sampled(arguments, newest_last=False)
    b, q = (int(place) for place in (found.images >= 0).sum(-1).eq(3).nonzero()[0])
    assert found.images[b, q, :3].tolist() == reversed_.images[b, q, :3].flip(0).tolist()
    torch.testing.assert_close(found.attention_weights[b, q, :3], reversed_.attention_weights[b, q, :3].flip(0))
    torch.testing.assert_close(found.sampling_locations[b, q, :3], reversed_.sampling_locations[b, q, :3].flip(0))


def test_queries_without_images_give_all_to_null() -> None:
    case = mmfs_attention_case()
    case.rest["visible"] = torch.zeros_like(case.rest["visible"])
    arguments = arguments_of(**case.tensors, **case.rest)
    found = sampled(arguments)
    assert found.sampling_locations.shape[2] == 0
    assert (found.null_weights == 1).all()


@pytest.mark.parametrize(
    ("points", "seen"),
    [
        ((4, 2), {"visible": torch.tensor([[0, 3], [1, 2]])[:, None].expand(2, 4, 2)}),
        ((2, 4, 3, 2), {"image_indices": torch.tensor([[2, -1, 0], [1, 1, -1]])[:, None].expand(2, 4, 3)}),
    ],
    ids=["ranges", "lists"],
)
def test_a_layer_hands_over_the_arguments_of_its_call(points: tuple[int, ...], seen: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    layer = MMFS(8, 8, spatial_shapes=NOT_SQUARE, num_heads=2, num_points=3, base=(4, 2)).double()
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.attention_weights.weight)
    calls: list[MMFSAttentionArguments] = []
    outputs: list[torch.Tensor] = []
    layer.output_proj.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    query, features = torch.randn(2, 4, 8).double(), torch.randn(3, sum(h * w for h, w in NOT_SQUARE), 8).double()
    layer(query, torch.rand(points), **seen, features=features, record=calls.append)
    [arguments], [output] = calls, outputs
    assert (rebuilt(sampled(arguments), arguments) - output).abs().max() < 1e-6  # points are float32
