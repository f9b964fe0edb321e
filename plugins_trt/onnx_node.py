"""From the torch ops to the ONNX nodes: what torch.onnx.export needs to know about mmfs.

    program = torch.onnx.export(module, args, dynamo=True, custom_translation_table=translation_table())
    model = attach_functions(program.model_proto)

The nodes leave the exporter without a body, because its version conversion cannot handle functions; attach_functions
(onnx_function.py) gives them one afterwards. Letters as in onnx_function.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx.defs import OpSchema
from onnxscript import OnnxFunction, ir
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

import mmfs.autograd  # noqa: F401  (registers torch.ops.mmfs)
from plugins_trt import onnx_function
from plugins_trt.node_contract import NAMESPACE, VERSION

PLUGIN = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The custom_translation_table that makes torch.onnx.export write mmfs ops as nodes of domain "mmfs", version 1.

    torch.ops.mmfs.mmfs_attention becomes MMFS(value, reference_points, sampling_offsets, attention_logits, visible,
    offset_table, logit_table, null_value), with attributes null_logit and use_null; tables and null_value that the call
    leaves out become constant zeros, which change nothing. A call with image_indices becomes MMFSImageLists, which has
    them in place of visible. torch.ops.mmfs.ms_deform_attn becomes MSDeformAttn(value, sampling_locations,
    attention_weights). All carry spatial_shapes (h, w, h, w, ...), and plugin_namespace and plugin_version, by which
    TensorRT finds the plugin.

    Where the sizes of the levels vary with the inputs of the model, they become DynamicMMFS, DynamicMMFSImageLists and
    DynamicMSDeformAttn, with spatial_shapes, int64 [L, 2], as the last input. There is no plugin for these: TensorRT
    builds them from their bodies.
    """
    return {
        torch.ops.mmfs.mmfs_attention.default: _mmfs_attention,
        torch.ops.mmfs.ms_deform_attn.default: _ms_deform_attn,
    }


def _bare(function: OnnxFunction) -> Op:
    """The operator that a function implements, without its body."""
    signature = function.function_ir
    kinds = {name: OpSchema.AttrType[attribute.type.name] for name, attribute in signature.attributes.items()}
    schema = OpSchema(
        function.name,
        onnx_function.DOMAIN,
        onnx_function.DOMAIN_VERSION,
        # A type letter for each input: value may be float16 while the coordinates stay float32.
        inputs=[OpSchema.FormalParameter(value.name, f"T_{value.name}") for value in signature.inputs],
        outputs=[OpSchema.FormalParameter("output", "T_value")],
        type_constraints=[(f"T_{value.name}", ["tensor(float)", "tensor(int64)"], "") for value in signature.inputs],
        attributes=[OpSchema.Attribute(name, kind, required=True) for name, kind in kinds.items()],
    )
    return Op(Opset(onnx_function.DOMAIN, onnx_function.DOMAIN_VERSION), function.name, schema)


_MMFS = _bare(onnx_function.MMFS)
_MSDEFORMATTN = _bare(onnx_function.MSDeformAttn)
_DYNAMIC_MMFS = _bare(onnx_function.DynamicMMFS)
_MMFS_IMAGE_LISTS = _bare(onnx_function.MMFSImageLists)
_DYNAMIC_MMFS_IMAGE_LISTS = _bare(onnx_function.DynamicMMFSImageLists)
_DYNAMIC_MSDEFORMATTN = _bare(onnx_function.DynamicMSDeformAttn)

# The exporter calls the two translations with the arguments of the torch op: tensors as values of the ONNX graph, and
# without annotations, because it takes annotated parameters for attributes.
# mypy: allow-untyped-defs, allow-incomplete-defs


def _mmfs_attention(
    value,  # [N, S, H, D]
    spatial_shapes: Sequence[int],
    reference_points,  # [B, Q, 2]; with image_indices [B, Q, K, L or 1, P or 1, 2]
    sampling_offsets,  # [B, Q, H, P, 2]; with image_indices [B, Q, H, L or 1, P, 2]
    attention_logits,  # [B, Q, H, L, P]
    visible,  # [B, Q, 2], or None
    offset_table,  # [A, H, P, 2] or, with image_indices, [A, H, L or 1, P, 2]; or None
    logit_table,  # [A, H, L, P] or None
    null_logit: float | None,
    null_value,  # [H, D] or None
    image_shapes,  # None, or [N, L, 2] when images differ
    image_indices=None,  # None, or [B, Q, K]
):
    if image_shapes is not None:
        raise ValueError(
            "mmfs_attention was called with spatial_shapes [N, L, 2], sizes that differ between images; the ONNX node "
            "holds one list of sizes for all images. Resize the images to one size and pass spatial_shapes [L, 2]."
        )
    # One row of a table serves all ages, because the function takes the last row for whatever is older.
    if offset_table is None:
        offset_table = _zeros(sampling_offsets, from_axis=2, leading=(1,))
    if logit_table is None:
        logit_table = _zeros(attention_logits, from_axis=2, leading=(1,))
    if null_value is None:
        null_value = _zeros(value, from_axis=2)
    tensors = (
        value,
        reference_points,
        sampling_offsets,
        attention_logits,
        visible if image_indices is None else image_indices,
        offset_table,
        logit_table,
        null_value,
    )
    node, dynamic_node = (
        (_MMFS, _DYNAMIC_MMFS) if image_indices is None else (_MMFS_IMAGE_LISTS, _DYNAMIC_MMFS_IMAGE_LISTS)
    )
    null = {"null_logit": 0.0 if null_logit is None else null_logit, "use_null": int(null_logit is not None)}
    if _are_constants(spatial_shapes):
        return node(*tensors, spatial_shapes=list(spatial_shapes), **null, **PLUGIN)
    return dynamic_node(*tensors, _as_input(spatial_shapes), **null)


def _ms_deform_attn(
    value,  # [B, S, H, D]
    spatial_shapes: Sequence[int],
    sampling_locations,  # [B, Q, H, L, P, 2]
    attention_weights,  # [B, Q, H, L, P]
):
    tensors = (value, sampling_locations, attention_weights)
    if _are_constants(spatial_shapes):
        return _MSDEFORMATTN(*tensors, spatial_shapes=list(spatial_shapes), **PLUGIN)
    return _DYNAMIC_MSDEFORMATTN(*tensors, _as_input(spatial_shapes))


def _are_constants(spatial_shapes: Sequence[Any]) -> bool:
    """Whether the sizes are numbers, and none of them a value of the graph."""
    return all(isinstance(side, int) for side in spatial_shapes)


def _as_input(spatial_shapes: Sequence[Any]) -> ir.Value:
    """Sizes that are numbers or values of the graph, as int64 [L, 2]."""
    sides = [
        op.Constant(value_ints=[side]) if isinstance(side, int) else op.Reshape(op.Cast(side, to=7), [1])
        for side in spatial_shapes
    ]
    return op.Reshape(op.Concat(*sides, axis=0), [-1, 2])


def _zeros(like: ir.Value, *, from_axis: int, leading: tuple[int, ...] = ()) -> ir.Value:
    """A constant of zeros with the type of `like` and its axes from `from_axis` on, which must be known sizes."""
    sizes = tuple(like.shape)[from_axis:]
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"{like.name} has the shape {like.shape}. Expected fixed sizes from axis {from_axis} on, because heads, "
            "levels, points and channels belong to the model: leave them out of dynamic_shapes."
        )
    return op.Constant(value=ir.tensor(np.zeros((*leading, *sizes), dtype=like.dtype.numpy())))
