"""Calls of the ONNX nodes as a runtime makes them: a node, its inputs in order, and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from mmfs.reference import mmfs_attention_reference, ms_deform_attn_reference
from op_cases import Case, arguments_of, image_lists_case, mmfs_attention_case, ms_deform_attn_case
from plugins_trt.node_contract import INPUTS, WEIGHTS, Node

LEVELS = ((4, 7), (3, 2))
FLAT = (4, 7, 3, 2)

CASES: Final[dict[str, Callable[..., Case]]] = {
    "MMFS": mmfs_attention_case,
    "MMFSImageLists": lambda sizes, **options: image_lists_case(
        sizes, points_by_sample=True, offsets_by_level=True, **options
    ),
    "MSDeformAttn": ms_deform_attn_case,
}
"""Of each node."""


def node_and_inputs(operator: str, dtype: torch.dtype, **options: Any) -> tuple[Node, list[Tensor]]:
    """A node, and the tensors of a case as a runtime hands them over: values of dtype, the others float32."""
    case = CASES[operator](LEVELS, **options)
    node = Node(operator, FLAT, case.rest.get("null_logit"))
    tensors = {
        name: tensor.to(dtype if name in ("value", "null_value") else torch.float32)
        for name, tensor in case.tensors.items()
    }
    tensors |= {name: part for name, part in case.rest.items() if isinstance(part, Tensor)}
    return node, [tensors[name].contiguous() for name in INPUTS[operator]]


def output_for(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    """Memory for its output, [B, Q, H*D] of value's type, that holds NaN."""
    batch, num_queries = inputs[INPUTS[node.operator].index(WEIGHTS[node.operator])].shape[:2]
    *_, num_heads, num_channels = inputs[0].shape
    return inputs[0].new_full((batch, num_queries, num_heads * num_channels), torch.nan)


def reference(node: Node, inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """What plain PyTorch computes in a type."""
    given = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in zip(INPUTS[node.operator], inputs, strict=True)
    }
    if node.operator == "MSDeformAttn":
        return ms_deform_attn_reference(arguments_of(FLAT, **given))
    return mmfs_attention_reference(arguments_of(FLAT, **given, null_logit=node.null_logit))
