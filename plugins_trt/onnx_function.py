"""The ONNX nodes mmfs::MMFS, mmfs::MMFSImageLists and mmfs::MSDeformAttn, spelled out in standard operators.

MMFS is mmfs.mmfs_attention with visible, a range of images for each query; MMFSImageLists is the same op with
image_indices, a list. The sizes of the levels are an attribute of the three. DynamicMMFS, DynamicMMFSImageLists and
DynamicMSDeformAttn have them as an input, for models that take images of any size.

TensorRT replaces the first three by a plugin and builds the dynamic nodes from these model-local functions; every other
runtime runs the functions. They gather rows instead of using GridSample: a decoder asks for one query at a time, and
GridSample would first transpose the whole bank.

Coordinates, softmax and sums are float32 whatever the inputs are; the result takes the type of value. MMFS lists every
image of the bank for every query and hides what the query does not see, so its time and memory grow with Q * N; the
corners of the samples are gathered one of four at a time, and the largest tensor is [B, Q, H, M*L*P, D] float32.

Letters: N images of the bank, S pixels of all levels, H heads, D channels of a head, L levels, P points, B batch,
Q queries, A rows of the tables. M images that one query sums over: N of MMFS, the slots of a list of MMFSImageLists.
(x, y) last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

DOMAIN = "mmfs"
DOMAIN_VERSION = 1
# The versions of the standard operators in which every operator used below means the same.
OPSETS = range(18, 25)

_domain = Opset(DOMAIN, DOMAIN_VERSION)

# onnxscript reads the functions below as programs: parameters without annotation are tensors, the others attributes;
# `a * b` becomes Mul; Cast to=1 is float32, to=7 int64, to=9 bool.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators


@script(_domain, default_opset=op)
def BilinearCorner(rows, plane, row, column, height, width, weight, inside):
    """Weighted sum of one corner pixel of every sample -> [B, Q, H, D] float32.

    rows [N*S*H + 1, D], the last one zero; weight [B, Q, H, M, L, P]. The rest broadcasts to weight: plane, the first
    pixel of an image's level; row and column of the corner; height and width of the level; inside, False to skip it.
    """
    zero_row = op.Shape(rows, start=0, end=1) - 1
    num_heads = op.Shape(weight, start=2, end=3)
    head = op.Reshape(op.Range(0, op.Squeeze(num_heads), 1), op.Constant(value_ints=[-1, 1, 1, 1]))  # [H, 1, 1, 1]
    inside_row = op.And(row >= 0, row < height)
    inside_column = op.And(column >= 0, column < width)
    counts = op.And(inside, op.And(inside_row, inside_column))
    index = op.Where(counts, (plane + row * width + column) * num_heads + head, zero_row)

    flat = op.Concat(op.Shape(weight, end=3), op.ReduceProd(op.Shape(weight, start=3)), axis=0)  # B, Q, H, M*L*P
    index = op.Reshape(op.Expand(index, op.Shape(weight)), flat, allowzero=1)  # [B, Q, H, M*L*P]
    weight = op.Where(counts, weight, 0.0)  # what is outside has no effect, whatever its weight: 0 * NaN is not 0
    weight = op.Unsqueeze(op.Reshape(weight, flat, allowzero=1), [3])  # [B, Q, H, 1, M*L*P]
    pixels = op.Cast(op.Gather(rows, index), to=1)  # [B, Q, H, M*L*P, D]
    return op.Squeeze(op.MatMul(weight, pixels), [3])


@script(_domain, default_opset=op)
def BilinearSum(value, image, location, weight, sizes):
    """Weighted sum of bilinear samples -> [B, Q, H, D] float32.

    value [N, S, H, D]; image int64, broadcastable to [B, Q, 1, M, 1, 1], -1 for none; location float32
    [B, Q, H, M, L or 1, P, 2]; weight float32 [B, Q, H, M, L, P]; sizes int64 [L, 2], (h, w). A location is at
    location * size - 0.5 pixels; outside a level is zero, and so is what is not finite.
    """
    height, width = op.Split(sizes, axis=1, num_outputs=2)  # [L, 1]
    first_pixel = op.CumSum(height * width, 0, exclusive=1)  # [L, 1]
    num_pixels = op.Shape(value, start=1, end=2)
    plane = image * num_pixels + first_pixel  # [B, Q, 1, M, L, 1]

    # A zero row in place of hidden and outside pixels: they may hold NaN, and 0 * NaN is not 0.
    # As many rows as the sizes say: a value of other sizes, which a program that was traced for one size of images may
    # be given, cannot be reshaped, and the runtime says so. Cut to what has a product of 64 bits: negative sides, and
    # those whose product would overflow, do not add up to the pixels that there are.
    num_channels = op.Shape(value, start=3)
    pixels_of_sizes = op.ReduceSum(op.Clip(height, 0, 268435456) * op.Clip(width, 0, 268435456), [0], keepdims=0)  # [1]
    num_rows = op.Shape(value, end=1) * pixels_of_sizes * op.Shape(value, start=2, end=3)
    rows = op.Reshape(value, op.Concat(num_rows, num_channels, axis=0), allowzero=1)
    zero_row = op.CastLike(op.Expand(0.0, op.Concat(op.Constant(value_ints=[1]), num_channels, axis=0)), value)
    rows = op.Concat(rows, zero_row, axis=0)

    # Comparisons are false for NaN. Locations that are not inside become 0: casting them to integers may be undefined.
    x = op.Gather(location, 0, axis=-1) * op.Cast(width, to=1) - 0.5  # [B, Q, H, M, L, P]
    y = op.Gather(location, 1, axis=-1) * op.Cast(height, to=1) - 0.5
    inside_x = op.And(x > -1.0, x < op.Cast(width, to=1))
    inside_y = op.And(y > -1.0, y < op.Cast(height, to=1))
    inside = op.And(image >= 0, op.And(inside_x, inside_y))
    x = op.Where(inside, x, 0.0)
    y = op.Where(inside, y, 0.0)

    right_share = x - op.Floor(x)
    lower_share = y - op.Floor(y)
    left = op.Cast(op.Floor(x), to=7)
    top = op.Cast(op.Floor(y), to=7)
    upper = weight * (1.0 - lower_share)
    lower = weight * lower_share
    total = BilinearCorner(rows, plane, top, left, height, width, upper * (1.0 - right_share), inside)
    total = total + BilinearCorner(rows, plane, top, left + 1, height, width, upper * right_share, inside)
    total = total + BilinearCorner(rows, plane, top + 1, left, height, width, lower * (1.0 - right_share), inside)
    total = total + BilinearCorner(rows, plane, top + 1, left + 1, height, width, lower * right_share, inside)
    return total


@script(_domain, default_opset=op)
def DynamicMSDeformAttn(value, sampling_locations, attention_weights, spatial_shapes):
    """mmfs.ms_deform_attn: value [B, S, H, D], locations [B, Q, H, L, P, 2], weights [B, Q, H, L, P],
    spatial_shapes int64 [L, 2] -> [B, Q, H*D].
    """
    image = op.Range(0, op.Squeeze(op.Shape(value, end=1)), 1)  # each row of the batch samples its own image: M = 1
    image = op.Reshape(image, op.Constant(value_ints=[-1, 1, 1, 1, 1, 1]))
    location = op.Unsqueeze(op.Cast(sampling_locations, to=1), [3])  # [B, Q, H, 1, L, P, 2]
    weight = op.Unsqueeze(op.Cast(attention_weights, to=1), [3])  # [B, Q, H, 1, L, P]
    total = BilinearSum(value, image, location, weight, spatial_shapes)
    merged = op.Concat(op.Shape(total, end=2), op.ReduceProd(op.Shape(total, start=2)), axis=0)
    return op.CastLike(op.Reshape(total, merged, allowzero=1), value)


@script(_domain, default_opset=op)
def MSDeformAttn(
    value,
    sampling_locations,
    attention_weights,
    spatial_shapes: Sequence[int],
    plugin_namespace: str = "mmfs",
    plugin_version: str = "1",
):
    """mmfs.ms_deform_attn: value [B, S, H, D], locations [B, Q, H, L, P, 2], weights [B, Q, H, L, P] -> [B, Q, H*D]."""
    sizes = op.Reshape(op.Constant(value_ints=spatial_shapes), [-1, 2])
    return DynamicMSDeformAttn(value, sampling_locations, attention_weights, sizes)


@script(_domain, default_opset=op)
def AttendToImages(
    value,
    image,
    beyond,
    reference_points,
    sampling_offsets,
    attention_logits,
    offset_table,
    logit_table,
    null_value,
    sizes,
    null_logit: float,
    use_null: int,
):
    """Where and how much each query samples of its M images, the softmax over images, levels and points, with null, and
    the sum that it weighs -> [B, Q, H*D].

    value [N, S, H, D]; image int64 [B, Q, M], -1 for none, the m-th of which takes row m of the tables, or the last;
    beyond bool [B, Q, 1], True for a query that gets NaN; points [B, Q, M or 1, L or 1, P or 1, 2]; offsets
    [B, Q, H, L or 1, P, 2]; logits [B, Q, H, L, P]; tables [A, H, L or 1, P, 2] and [A, H, L, P]; null_value [H, D];
    sizes int64 [L, 2].
    """
    slot = op.Range(0, op.Squeeze(op.Shape(image, start=2)), 1)  # [M]

    offset_row = op.Min(slot, op.Squeeze(op.Shape(offset_table, end=1)) - 1)
    offset_of_slot = op.Cast(op.Gather(offset_table, offset_row), to=1)  # [M, H, L or 1, P, 2]
    offset_of_slot = op.Transpose(offset_of_slot, perm=[1, 0, 2, 3, 4])  # [H, M, L or 1, P, 2]
    offset = op.Unsqueeze(op.Cast(sampling_offsets, to=1), [3])  # [B, Q, H, 1, L or 1, P, 2]
    point = op.Unsqueeze(op.Cast(reference_points, to=1), [2])  # [B, Q, 1, M or 1, L or 1, P or 1, 2]
    location = point + (offset + offset_of_slot)  # [B, Q, H, M, L or 1, P, 2]

    logit_row = op.Min(slot, op.Squeeze(op.Shape(logit_table, end=1)) - 1)
    logit_of_slot = op.Transpose(op.Cast(op.Gather(logit_table, logit_row), to=1), perm=[1, 0, 2, 3])  # [H, M, L, P]
    logit = op.Unsqueeze(op.Cast(attention_logits, to=1), [3]) + logit_of_slot  # [B, Q, H, M, L, P]

    image = op.Unsqueeze(image, [2, 4, 5])  # [B, Q, 1, M, 1, 1]
    minus_infinity = op.Constant(value_float=float("-inf"))
    seen_logit = op.Where(image >= 0, logit, minus_infinity)

    # One more entry of the softmax has the weight of null. Without null this weight is 0, unless no entry has a logit
    # above minus infinity: then it is 1, and the result is null_value.
    flat = op.Concat(op.Shape(logit, end=3), op.ReduceProd(op.Shape(logit, start=3)), axis=0)  # B, Q, H, M*L*P
    seen_logit = op.Reshape(seen_logit, flat, allowzero=1)  # [B, Q, H, M*L*P]
    num_entries = op.ReduceSum(op.Cast(op.Not(seen_logit == minus_infinity), to=1), [3])  # [B, Q, H, 1]
    without_null = op.Where(num_entries > 0.0, minus_infinity, 0.0)
    uses_null = op.Cast(op.Constant(value_int=use_null), to=9)
    null_entry = op.Where(uses_null, op.Constant(value_float=null_logit), without_null)
    null_entry = op.Where(op.Unsqueeze(beyond, [3]), op.Constant(value_float=float("nan")), null_entry)
    entries = op.Concat(seen_logit, null_entry, axis=3)
    share = op.Softmax(entries, axis=-1)  # [B, Q, H, M*L*P + 1]
    null_share = op.Slice(share, [-1], [9223372036854775807], [3])  # [B, Q, H, 1]
    weight = op.Reshape(op.Slice(share, [0], [-1], [3]), op.Shape(logit), allowzero=1)  # [B, Q, H, M, L, P]

    total = BilinearSum(value, image, location, weight, sizes)  # [B, Q, H, D]
    total = total + null_share * op.Cast(null_value, to=1)
    merged = op.Concat(op.Shape(total, end=2), op.ReduceProd(op.Shape(total, start=2)), axis=0)
    return op.CastLike(op.Reshape(total, merged, allowzero=1), value)


@script(_domain, default_opset=op)
def DynamicMMFS(
    value,
    reference_points,
    sampling_offsets,
    attention_logits,
    visible,
    offset_table,
    logit_table,
    null_value,
    spatial_shapes,
    null_logit: float = 0.0,
    use_null: int = 1,
):
    """mmfs.mmfs_attention: value [N, S, H, D], points [B, Q, 2], offsets [B, Q, H, P, 2], logits [B, Q, H, L, P],
    visible [B, Q, 2], tables [A, H, P, 2] and [A, H, L, P], null_value [H, D], spatial_shapes int64 [L, 2]
    -> [B, Q, H*D].
    """
    # Images are listed by age, newest first, so the tables are the same for all queries: M = N, row m holds age m + 1.
    num_images = op.Squeeze(op.Shape(value, end=1))
    age = op.Range(0, num_images, 1)  # [M]
    first, last = op.Split(op.Cast(visible, to=7), axis=-1, num_outputs=2)  # [B, Q, 1]
    # A range that reaches beyond the bank makes NaN, as in the CUDA kernels: a graph cannot raise. Until that is known,
    # nothing is computed with the range: the difference of any two numbers may not fit 64 bits.
    sees_any = last > first
    in_bank = op.And(first >= 0, last <= num_images)
    beyond = op.And(sees_any, op.Not(in_bank))  # [B, Q, 1]
    seen = op.And(sees_any, in_bank)
    first = op.Where(seen, first, 0)
    last = op.Where(seen, last, 0)
    image = last - 1 - age  # [B, Q, M]
    image = op.Where(image >= first, image, -1)

    return AttendToImages(
        value,
        image,
        beyond,
        op.Unsqueeze(reference_points, [2, 3, 4]),
        op.Unsqueeze(sampling_offsets, [3]),
        attention_logits,
        op.Unsqueeze(offset_table, [2]),
        logit_table,
        null_value,
        spatial_shapes,
        null_logit=null_logit,
        use_null=use_null,
    )


@script(_domain, default_opset=op)
def DynamicMMFSImageLists(
    value,
    reference_points,
    sampling_offsets,
    attention_logits,
    image_indices,
    offset_table,
    logit_table,
    null_value,
    spatial_shapes,
    null_logit: float = 0.0,
    use_null: int = 1,
):
    """mmfs.mmfs_attention: value [N, S, H, D], points [B, Q, M, L or 1, P or 1, 2], offsets [B, Q, H, L or 1, P, 2],
    logits [B, Q, H, L, P], image_indices [B, Q, M], -1 for none, tables [A, H, L or 1, P, 2] and [A, H, L, P],
    null_value [H, D], spatial_shapes int64 [L, 2] -> [B, Q, H*D].
    """
    image = op.Cast(image_indices, to=7)  # [B, Q, M]
    outside = op.Or(image < -1, image >= op.Squeeze(op.Shape(value, end=1)))
    beyond = op.ReduceSum(op.Cast(outside, to=7), [2]) > 0  # [B, Q, 1]
    image = op.Where(beyond, -1, image)
    return AttendToImages(
        value,
        image,
        beyond,
        reference_points,
        sampling_offsets,
        attention_logits,
        offset_table,
        logit_table,
        null_value,
        spatial_shapes,
        null_logit=null_logit,
        use_null=use_null,
    )


@script(_domain, default_opset=op)
def MMFS(
    value,
    reference_points,
    sampling_offsets,
    attention_logits,
    visible,
    offset_table,
    logit_table,
    null_value,
    spatial_shapes: Sequence[int],
    null_logit: float = 0.0,
    use_null: int = 1,
    plugin_namespace: str = "mmfs",
    plugin_version: str = "1",
):
    """mmfs.mmfs_attention: value [N, S, H, D], points [B, Q, 2], offsets [B, Q, H, P, 2], logits [B, Q, H, L, P],
    visible [B, Q, 2], tables [A, H, P, 2] and [A, H, L, P], null_value [H, D] -> [B, Q, H*D].
    """
    sizes = op.Reshape(op.Constant(value_ints=spatial_shapes), [-1, 2])
    return DynamicMMFS(
        value,
        reference_points,
        sampling_offsets,
        attention_logits,
        visible,
        offset_table,
        logit_table,
        null_value,
        sizes,
        null_logit=null_logit,
        use_null=use_null,
    )


@script(_domain, default_opset=op)
def MMFSImageLists(
    value,
    reference_points,
    sampling_offsets,
    attention_logits,
    image_indices,
    offset_table,
    logit_table,
    null_value,
    spatial_shapes: Sequence[int],
    null_logit: float = 0.0,
    use_null: int = 1,
    plugin_namespace: str = "mmfs",
    plugin_version: str = "1",
):
    """mmfs.mmfs_attention: value [N, S, H, D], points [B, Q, M, L or 1, P or 1, 2], offsets [B, Q, H, L or 1, P, 2],
    logits [B, Q, H, L, P], image_indices [B, Q, M], -1 for none, tables [A, H, L or 1, P, 2] and [A, H, L, P],
    null_value [H, D] -> [B, Q, H*D].
    """
    sizes = op.Reshape(op.Constant(value_ints=spatial_shapes), [-1, 2])
    return DynamicMMFSImageLists(
        value,
        reference_points,
        sampling_offsets,
        attention_logits,
        image_indices,
        offset_table,
        logit_table,
        null_value,
        sizes,
        null_logit=null_logit,
        use_null=use_null,
    )


FUNCTIONS = {
    function.name: function
    for function in (
        MMFS,
        MMFSImageLists,
        MSDeformAttn,
        DynamicMMFS,
        DynamicMMFSImageLists,
        DynamicMSDeformAttn,
        AttendToImages,
        BilinearSum,
        BilinearCorner,
    )
}
"""Bodies by the name of the node."""


def attach_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the mmfs nodes of a model their bodies, so that any ONNX runtime can run it.

    Call it after torch.onnx.export, on `program.model_proto`: the version conversion inside the exporter cannot handle
    functions. The model is changed in place and returned. Bodies are added for the nodes that occur in the graph, its
    subgraphs and its functions; bodies that are already there stay, and a model without mmfs nodes stays as it is.

    Raises ValueError if a node of the domain is unknown, or if the model uses a version of the standard operators in
    which the bodies have not been checked.
    """
    wanted = _op_types(model.graph.node)
    for function in model.functions:
        wanted |= _op_types(function.node)
    if not wanted:
        return model
    if unknown := sorted(wanted - FUNCTIONS.keys()):
        raise ValueError(
            f"The model has nodes of domain {DOMAIN!r} named {unknown}; the domain holds {sorted(FUNCTIONS)}. "
            "Export it with plugins_trt.onnx_node.translation_table()."
        )
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset not in OPSETS:
        raise ValueError(
            f"The model uses version {opset} of the standard ONNX operators. Expected {OPSETS.start} to "
            f"{OPSETS.stop - 1}, where the bodies of the mmfs nodes hold: export with an opset_version in that range."
        )
    present = {function.name for function in model.functions if function.domain == DOMAIN}
    bodies: dict[str, onnx.FunctionProto] = {}
    while missing := wanted - present - bodies.keys():
        for name in missing:
            bodies[name] = FUNCTIONS[name].to_function_proto()
            wanted |= _op_types(bodies[name].node)  # a body calls other functions
    for _, body in sorted(bodies.items()):
        for entry in body.opset_import:
            if entry.domain == "":
                entry.version = opset  # the checker wants the version of the model
        model.functions.append(body)
    return model


def _op_types(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Types of the nodes of this domain, those in the subgraphs of If, Loop and Scan included."""
    found = set()
    for node in nodes:
        if node.domain == DOMAIN:
            found.add(node.op_type)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                found |= _op_types(graph.node)
    return found
