"""A folded layer in one call of C is norm, product, sampling and product, and leaves to others what it cannot compute.

Letters: B sequences, T tokens, C width of the layer, H heads, D channels a head, L levels, P points, A ages, N images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmfs import compiled, compiled_layer, mmfs_attention
from mmfs.compiled_layer import folded_layer

pytestmark = pytest.mark.skipif(compiled.why_no_library() is not None, reason=str(compiled.why_no_library()))

SHAPES = ((5, 3), (2, 2))
SIZES = (5, 3, 2, 2)


def call(
    batch: int, num_tokens: int, width: int, heads: int, channels: int, points: int, *, null: bool = True
) -> dict[str, Any]:
    """Arguments of a layer, and of tokens that see no image, one, and all three."""
    num_levels, num_ages = len(SHAPES), 2
    num_offsets, num_logits = heads * points * 2, heads * num_levels * points
    ranges = torch.tensor([[0, 0], [1, 2], [0, 3]])
    return {
        "hidden": torch.randn(batch, num_tokens, width),
        "attended": torch.randn(batch, num_tokens, width),
        "values": torch.randn(3, 19, heads, channels),
        "visible": ranges[torch.arange(batch * num_tokens) % 3].view(batch, num_tokens, 2),
        "spatial_shapes": SIZES,
        "least_square": width * 1e-6,
        "maps": torch.randn(num_offsets + num_logits, width),
        "bias": torch.randn(num_offsets + num_logits),
        "reference_point": torch.tensor([0.5, 0.25]),
        "offset_table": torch.randn(num_ages, heads, points, 2),
        "logit_table": torch.randn(num_ages, heads, num_levels, points),
        "null_value": torch.randn(heads, channels) if null else None,
        "output": torch.randn(width, heads * channels),
        "output_bias": torch.randn(width),
    }


def expected(given: dict[str, Any]) -> Tensor:
    """By operators, in float64."""
    wide = {
        name: it.double() if isinstance(it, Tensor) and it.is_floating_point() else it for name, it in given.items()
    }
    attended = 0 if wide["attended"] is None else wide["attended"]
    states = wide["hidden"] + attended
    lengths = (states.square().sum(-1, keepdim=True) + wide["least_square"]).sqrt()
    both = states / lengths @ wide["maps"].T + wide["bias"]
    batch, num_tokens = states.shape[:2]
    num_offsets = wide["offset_table"][0].numel()
    seen = mmfs_attention(
        wide["values"],
        SHAPES,
        wide["reference_point"],
        both[..., :num_offsets].reshape(batch, num_tokens, *wide["offset_table"].shape[1:]),
        both[..., num_offsets:].reshape(batch, num_tokens, *wide["logit_table"].shape[1:]),
        wide["visible"],
        offset_table=wide["offset_table"],
        logit_table=wide["logit_table"],
        null_logit=None if wide["null_value"] is None else 0.0,
        null_value=wide["null_value"],
    )
    out: Tensor = attended + seen @ wide["output"].T + wide["output_bias"]
    return out


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("has_attended", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 128, 4, 32, 4), (2, 3, 24, 2, 8, 3), (1, 2, 7, 1, 5, 1), (3, 1, 33, 3, 3, 2)],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_it_computes_what_operators_do(null: bool, has_attended: bool, sizes: tuple[int, ...]) -> None:
    """Widths that fill vectors and rows in fours, and widths that do not."""
    given = call(*sizes, null=null)
    given["attended"] = given["attended"] if has_attended else None
    found = folded_layer(**given)
    assert found is not None
    right = expected(given)
    assert found.dtype == torch.float32
    # Offsets are some pixels large here, and the image is noise: their rounding counts several times.
    assert float((found - right).norm() / right.norm()) < 1e-5


def test_states_of_zeros_are_divided_by_something() -> None:
    given = call(1, 3, 24, 2, 8, 3)
    given["hidden"] = given["attended"] = torch.zeros(1, 3, 24)
    found = folded_layer(**given)
    assert found is not None
    torch.testing.assert_close(found, expected(given).float(), rtol=1e-4, atol=1e-4)


def strided(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(-1).repeat_interleave(2, -1)[..., 0]


def less(tensor: Tensor) -> Tensor:
    return tensor[..., :-1].contiguous()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hidden", strided),
        ("hidden", Tensor.double),
        ("hidden", Tensor.bfloat16),
        ("hidden", torch.Tensor.requires_grad_),
        ("hidden", lambda hidden: hidden[0]),
        ("attended", strided),
        ("attended", less),
        ("values", strided),
        ("values", less),
        ("values", Tensor.double),
        ("values", lambda values: values[:0]),
        ("values", lambda values: values[:, :-1].contiguous()),
        ("visible", Tensor.int),
        ("visible", strided),
        ("visible", lambda visible: visible - 1),
        ("visible", lambda visible: visible + 1),
        ("maps", strided),
        ("maps", less),
        ("bias", less),
        ("reference_point", less),
        ("offset_table", less),
        ("logit_table", less),
        ("null_value", less),
        ("output", less),
        ("output_bias", less),
    ],
)
def test_it_leaves_to_others_what_it_cannot_compute(name: str, change: Callable[[Tensor], Tensor]) -> None:
    given = call(1, 3, 24, 2, 8, 3)
    assert folded_layer(**given) is not None
    assert folded_layer(**given | {name: change(given[name])}) is None


def test_it_leaves_large_calls_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    given = call(1, 3, 24, 2, 8, 3)
    num_products = 3 * (given["maps"].numel() + given["output"].numel())
    monkeypatch.setattr(compiled_layer, "MOST_PRODUCTS", num_products)
    assert folded_layer(**given) is not None
    monkeypatch.setattr(compiled_layer, "MOST_PRODUCTS", num_products - 1)
    assert folded_layer(**given) is None


def test_it_leaves_it_to_operators_where_somebody_hears_of_them() -> None:
    given = call(1, 3, 24, 2, 8, 3)
    with FlopCounterMode(display=False):
        assert folded_layer(**given) is None
