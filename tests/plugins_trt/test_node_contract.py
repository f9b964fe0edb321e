"""What the nodes promise, without any runtime."""

from __future__ import annotations

from operator import mul

import pytest
import torch

from plugins_trt import onnx_function
from plugins_trt.node_contract import ATTRIBUTES, INPUTS, NAMESPACE, VERSION, Node, output_shape, sizes_of, takes_type

# B=2, Q=5, N=3, S=4*7+3*2, H=2, D=8, L=2, P=3, A=4 and 6
LEVELS = (4, 7, 3, 2)
MMFS_ATTENTION = [
    (3, 34, 2, 8),
    (2, 5, 2),
    (2, 5, 2, 3, 2),
    (2, 5, 2, 2, 3),
    (2, 5, 2),
    (4, 2, 3, 2),
    (6, 2, 2, 3),
    (2, 8),
]
MMFS_IMAGE_LISTS = [
    (3, 34, 2, 8),
    (2, 5, 4, 2, 3, 2),
    (2, 5, 2, 2, 3, 2),
    (2, 5, 2, 2, 3),
    (2, 5, 4),
    (4, 2, 2, 3, 2),
    (6, 2, 2, 3),
    (2, 8),
]
MS_DEFORM_ATTN = [(2, 34, 2, 8), (2, 5, 2, 2, 3, 2), (2, 5, 2, 2, 3)]
SHAPES = {"MMFS": MMFS_ATTENTION, "MMFSImageLists": MMFS_IMAGE_LISTS, "MSDeformAttn": MS_DEFORM_ATTN}
FREE = {
    *((node, name, 0) for node in ("MMFS", "MMFSImageLists") for name in ("value", "offset_table", "logit_table")),
    ("MSDeformAttn", "value", 3),
}
"""Axes that no other input has."""
FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize("operator", INPUTS)
def test_inputs_and_attributes_are_those_of_the_onnx_function(operator):
    signature = getattr(onnx_function, operator).function_ir
    assert tuple(value.name for value in signature.inputs) == INPUTS[operator]
    attributes = {name: attribute.value for name, attribute in signature.attributes.items()}
    assert attributes.pop("plugin_namespace") == NAMESPACE
    assert attributes.pop("plugin_version") == VERSION
    assert tuple(attributes) == ATTRIBUTES[operator]


@pytest.mark.parametrize(("operator", "shapes"), SHAPES.items())
def test_output_shape_of_numbers_and_of_expressions(operator, shapes):
    assert output_shape(operator, shapes, mul) == (2, 5, 16)
    symbols = [tuple(f"{name}{axis}" for axis in range(6)) for name in INPUTS[operator]]
    weights = "attention_weights" if operator == "MSDeformAttn" else "attention_logits"
    product = output_shape(operator, symbols, lambda one, other: f"{one}*{other}")
    assert product == (f"{weights}0", f"{weights}1", "value2*value3")


def test_sizes():
    mmfs_attention = sizes_of(Node("MMFS", LEVELS), MMFS_ATTENTION)
    assert (
        mmfs_attention.batch,
        mmfs_attention.num_queries,
        mmfs_attention.num_rows,
        mmfs_attention.num_images,
        mmfs_attention.pixels_per_image,
    ) == (
        2,
        5,
        10,
        3,
        34,
    )
    assert (
        mmfs_attention.num_heads,
        mmfs_attention.num_channels,
        mmfs_attention.num_levels,
        mmfs_attention.num_points,
    ) == (2, 8, 2, 3)
    assert (mmfs_attention.num_offset_ages, mmfs_attention.num_logit_ages) == (4, 6)
    ms_deform_attn = sizes_of(Node("MSDeformAttn", LEVELS), MS_DEFORM_ATTN)
    assert (ms_deform_attn.num_images, ms_deform_attn.num_offset_ages, ms_deform_attn.num_logit_ages) == (2, 0, 0)
    assert sizes_of(Node("MMFS", LEVELS), [(0, 34, 2, 8), *MMFS_ATTENTION[1:]]).num_images == 0
    assert (mmfs_attention.num_slots, mmfs_attention.most_images) == (None, 3)


def test_sizes_of_lists():
    node = Node("MMFSImageLists", LEVELS)
    lists = sizes_of(node, MMFS_IMAGE_LISTS)
    assert (lists.num_slots, lists.most_images, lists.num_images) == (4, 4, 3)
    assert (lists.point_levels, lists.point_points, lists.offset_levels) == (2, 3, 2)
    shared = list(MMFS_IMAGE_LISTS)
    shared[1], shared[2], shared[5] = (2, 5, 4, 1, 1, 2), (2, 5, 2, 1, 3, 2), (4, 2, 1, 3, 2)
    lists = sizes_of(node, shared)
    assert (lists.point_levels, lists.point_points, lists.offset_levels) == (1, 1, 1)
    none = [(2, 5, 0, *shape[3:]) if position in (1, 4) else shape for position, shape in enumerate(shared)]
    with pytest.raises(ValueError, match=r"reference_points of MMFSImageLists .* Expected \[2, 5, 1, 1, 1, 2\]"):
        sizes_of(node, none)


@pytest.mark.parametrize("operator", INPUTS)
def test_every_wrong_size_is_named(operator):
    shapes = SHAPES[operator]
    for position, (name, shape) in enumerate(zip(INPUTS[operator], shapes, strict=True)):
        for axis, size in enumerate(shape):
            if (operator, name, axis) in FREE:
                continue
            wrong = list(shapes)
            wrong[position] = (*shape[:axis], size + 1, *shape[axis + 1 :])
            with pytest.raises(ValueError, match=f"of {operator} has the shape .* Expected"):
                sizes_of(Node(operator, LEVELS), wrong)
            wrong[position] = (*shape[:axis], -1, *shape[axis + 1 :])
            with pytest.raises(ValueError, match=rf"{name} of {operator} has the shape .*Expected sizes of at least 0"):
                sizes_of(Node(operator, LEVELS), wrong)
    with pytest.raises(ValueError, match=rf"{operator} has {len(shapes) - 1} inputs\. Expected value, "):
        sizes_of(Node(operator, LEVELS), shapes[:-1])
    with pytest.raises(ValueError, match=r"value of .* has the shape \[34, 2, 8\]\. Expected 4 axes"):
        sizes_of(Node(operator, LEVELS), [(34, 2, 8), *shapes[1:]])


@pytest.mark.parametrize(
    ("operator", "levels", "message"),
    [
        ("GridSample", LEVELS, r"no mmfs node 'GridSample'\. Expected one of MMFS, MMFSImageLists, MSDeformAttn"),
        ("MMFS", (4, 7, 3), r"spatial_shapes is \[4, 7, 3\]\. Expected heights and widths in turn"),
        ("MMFS", (), r"spatial_shapes is \[\]"),
        ("MSDeformAttn", (4, 0), r"all positive"),
        ("MMFS", (1, 1) * 17, r"17 levels\. The CUDA kernels take 16"),
        ("MMFS", (2**32, 2**32), r"18446744073709551616 pixels\. The CUDA kernels take at most 2147483647 pixels"),
    ],
    ids=["unknown", "odd", "none", "zero", "too-many", "too-large"],
)
def test_a_node_that_cannot_be_is_refused(operator, levels, message):
    with pytest.raises(ValueError, match=message):
        Node(operator, levels)


def accepts(operator: str, *types: torch.dtype | None) -> bool:
    """As TensorRT asks: one position after the other."""
    return all(takes_type(operator, position, types[: position + 1]) for position in range(len(types)))


def test_types():
    for dtype in (FLOAT, HALF, BFLOAT):
        assert accepts("MMFS", dtype, FLOAT, HALF, BFLOAT, torch.int64, dtype, FLOAT, dtype, dtype)
        assert accepts("MSDeformAttn", dtype, FLOAT, dtype, dtype)
    assert not accepts("MSDeformAttn", HALF, FLOAT, HALF, FLOAT), "the output has the type of value"
    assert not accepts("MSDeformAttn", torch.float64)
    assert not accepts("MSDeformAttn", None)
    assert not accepts("MMFS", HALF, FLOAT, FLOAT, FLOAT, torch.int32)
    assert not accepts("MMFS", HALF, torch.int64)
    assert accepts("MMFSImageLists", HALF, FLOAT, FLOAT, FLOAT, torch.int64, FLOAT, FLOAT, HALF, HALF)
    assert not accepts("MMFSImageLists", HALF, FLOAT, FLOAT, FLOAT, torch.int32)


def test_what_the_kernels_cannot_count_is_refused():
    shapes = [(2**30, 34, 2, 8), *MMFS_ATTENTION[1:]]
    with pytest.raises(ValueError, match="levels times points is 6 and a query can see 1073741824 images"):
        sizes_of(Node("MMFS", LEVELS), shapes)
    lists = list(MMFS_IMAGE_LISTS)
    lists[1], lists[4] = (2, 5, 2**30, 2, 3, 2), (2, 5, 2**30)
    with pytest.raises(ValueError, match="levels times points is 6 and a query can see 1073741824 images"):
        sizes_of(Node("MMFSImageLists", LEVELS), lists)
    table = list(MMFS_ATTENTION)
    table[5] = ()
    with pytest.raises(ValueError, match=r"offset_table of MMFS has the shape \[\]\. Expected \[1, 2, 3, 2\]"):
        sizes_of(Node("MMFS", LEVELS), table)
