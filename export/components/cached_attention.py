"""Attention over a cache as one operator: one node of the neutral graph, which each layout replaces by its own.

Letters: B sequences, T new tokens, K rows of the cache, H heads, G heads of keys and values, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

DOMAIN = "mmfs.export"
"""Domain of the node; no runtime implements it."""

DOMAIN_VERSION = 1
OPERATOR = "CachedAttention"
INPUTS = ("query", "key", "value", "past_key", "past_value", "mask", "write_indices")


@torch.library.custom_op("mmfs_export::cached_attention", mutates_args=())
def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    mask: Tensor,
    write_indices: Tensor,
    scale: float,
) -> Tensor:
    """Softmax attention of new tokens over the rows of a cache and themselves.

    Args:
        query: [B, H, T, D].
        key: [B, G, T, D] of the new tokens; H is a multiple of G, and neighbouring heads share.
        value: [B, G, T, D].
        past_key: [B, G, K, D].
        past_value: [B, G, K, D].
        mask: [B, 1, T, K + T] bool, True where a token attends: the rows of the cache, then the new tokens.
        write_indices: [B] int64, how many rows of the cache are valid. The mask says the same; a layout that writes
            the new rows after them needs the number.
        scale: of the scores.

    Returns:
        [B, H, T, D].
    """
    groups = query.shape[1] // key.shape[1]
    keys, values = (
        torch.cat(parts, dim=2).repeat_interleave(groups, dim=1) for parts in ((past_key, key), (past_value, value))
    )
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)


@cached_attention.register_fake
def _shape_of_attended(query: Tensor, *_others: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


class PastRows:
    """A cache for a transformers decoder: past rows are read, new rows are kept for the outputs."""

    def __init__(self, past: tuple[Tensor, ...]) -> None:
        self.keys, self.values = past[0::2], past[1::2]  # per layer [B, H, K, D]
        self.new: list[Tensor] = []  # key, value of layer 0, key, value of layer 1, ...

    def update(
        self, key: Tensor, value: Tensor, layer: int, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """[B, H, T, D] of this call -> [B, H, K + T, D], the past first."""
        self.new += [key, value]
        return torch.cat([self.keys[layer], key], dim=2), torch.cat([self.values[layer], value], dim=2)

    def get_seq_length(self, layer: int = 0) -> int:
        """Rows of the past, valid or not."""
        return self.keys[layer].shape[2]


class AttentionAsOneNode(TorchFunctionMode):
    """While it is active, attention in a decoder is `cached_attention`, for the layer that last updated the cache.

    Args:
        cache: of the decoder.
        write_indices: [B] int64.
    """

    def __init__(self, cache: PastRows, write_indices: Tensor) -> None:
        super().__init__()
        self.cache, self.write_indices = cache, write_indices

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One call of PyTorch; attention's keys and values are the concatenated ones, and are left out."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, layer = args[0], len(self.cache.new) // 2 - 1
        key, value = self.cache.new[-2:]
        scale = kwargs.get("scale") or query.shape[-1] ** -0.5
        past = self.cache.keys[layer], self.cache.values[layer]
        return cached_attention(query, key, value, *past, kwargs["attn_mask"], self.write_indices, float(scale))


@cache
def _node() -> Any:
    """The ONNX operator. onnx is imported here, so that listing the components does not need it."""
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    schema = OpSchema(
        OPERATOR,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[OpSchema.FormalParameter(name, f"T_{name}") for name in INPUTS],
        outputs=[OpSchema.FormalParameter("attended", "T_query")],
        type_constraints=[(f"T_{name}", ["tensor(float)", "tensor(bool)", "tensor(int64)"], "") for name in INPUTS],
        attributes=[OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT, required=True)],
    )
    return Op(Opset(DOMAIN, DOMAIN_VERSION), OPERATOR, schema)


def translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The part of a custom_translation_table that makes torch.onnx.export write the operator as one node."""
    return {torch.ops.mmfs_export.cached_attention.default: _cached_attention}


# The exporter takes annotated parameters for attributes, and these are values of the graph.
# mypy: allow-untyped-defs, allow-incomplete-defs


def _cached_attention(query, key, value, past_key, past_value, mask, write_indices, scale: float):
    return _node()(query, key, value, past_key, past_value, mask, write_indices, scale=scale)
