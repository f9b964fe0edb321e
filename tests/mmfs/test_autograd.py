"""The operators under torch.library's own checks, torch.compile and torch.export."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from mmfs import MMFS, MSDeformAttn
from numerics import assert_equal_up_to_rounding
from op_cases import NOT_SQUARE, arguments_of, image_lists_case, mmfs_attention_case, ms_deform_attn_case
from pyramid import Pyramid

FLAT = [side for size in NOT_SQUARE for side in size]


def ms_deform_attn_arguments(**options: Any) -> tuple[Any, ...]:
    tensors = ms_deform_attn_case(**options).tensors
    value, locations, weights = (tensor.float().requires_grad_() for tensor in tensors.values())
    return value, FLAT, locations, weights


def mmfs_attention_arguments(*, tables: bool = True, null_value: bool = True) -> tuple[Any, ...]:
    case = mmfs_attention_case(tables=tables, null_value=null_value)
    tensors = {name: tensor.float().requires_grad_() for name, tensor in case.tensors.items()}
    value, points, offsets, logits = list(tensors.values())[:4]
    return (
        value,
        FLAT,
        points,
        offsets,
        logits,
        case.rest["visible"],
        tensors.get("offset_table"),
        tensors.get("logit_table"),
        0.3 if null_value else None,
        tensors.get("null_value"),
        None,
    )


def image_lists_arguments(**options: Any) -> tuple[Any, ...]:
    case = image_lists_case(**options)
    tensors = {name: tensor.float().requires_grad_() for name, tensor in case.tensors.items()}
    lists = case.rest["image_indices"]
    return tuple(arguments_of(spatial_shapes=NOT_SQUARE, **tensors, image_indices=lists, null_logit=0.3))


def sizes_per_image() -> tuple[Any, ...]:
    arguments = list(mmfs_attention_arguments())
    arguments[0] = arguments[0].detach().flatten(0, 1).requires_grad_()
    arguments[1] = []
    arguments[-1] = torch.tensor(NOT_SQUARE).expand(6, 2, 2).contiguous()
    return tuple(arguments)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        pytest.param(torch.ops.mmfs.ms_deform_attn.default, ms_deform_attn_arguments(), id="ms_deform_attn"),
        pytest.param(torch.ops.mmfs.mmfs_attention.default, mmfs_attention_arguments(), id="everything"),
        pytest.param(
            torch.ops.mmfs.mmfs_attention.default, mmfs_attention_arguments(tables=False, null_value=False), id="bare"
        ),
        pytest.param(torch.ops.mmfs.mmfs_attention.default, sizes_per_image(), id="sizes-per-image"),
        pytest.param(
            torch.ops.mmfs.mmfs_attention.default,
            image_lists_arguments(points_by_level=True, offsets_by_level=True),
            id="image-lists",
        ),
        pytest.param(torch.ops.mmfs.mmfs_attention_with_lse.default, mmfs_attention_arguments(), id="with-lse"),
    ],
)
def test_opcheck(op: Any, arguments: tuple[Any, ...]) -> None:
    passed = torch.library.opcheck(op, arguments)
    assert set(passed.values()) == {"SUCCESS"}
    assert "test_aot_dispatch_dynamic" in passed


@pytest.mark.parametrize(
    "arguments",
    [
        mmfs_attention_arguments(),
        mmfs_attention_arguments(tables=False, null_value=False),
        image_lists_arguments(points_by_sample=True),
    ],
)
@pytest.mark.parametrize("needs_value", [True, False])
def test_backward_operators_describe_their_outputs(arguments: tuple[Any, ...], needs_value: bool) -> None:
    detached = [part.detach() if isinstance(part, Tensor) else part for part in arguments]
    grad = torch.ones(2, 5, 6)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.mmfs.mmfs_attention_backward.default, (grad, needs_value, None, *detached), test_utils=checks
    )
    detached = [part.detach() if isinstance(part, Tensor) else part for part in ms_deform_attn_arguments()]
    torch.library.opcheck(
        torch.ops.mmfs.ms_deform_attn_backward.default, (grad, needs_value, *detached), test_utils=checks
    )


def test_the_operators_cost_no_second_import() -> None:
    """torch's custom_op decorator would import torch._dynamo at the first call: seconds in every process."""
    code = (
        "import sys, torch, mmfs\n"
        "value = torch.ones(1, 4, 1, 2, requires_grad=True)\n"
        "out = mmfs.ms_deform_attn(value, [(2, 2)], torch.rand(1, 3, 1, 1, 1, 2), torch.rand(1, 3, 1, 1, 1))\n"
        "out.sum().backward()\n"
        "print([name for name in ('torch._dynamo', 'cupy', 'transformers', 'tensorrt') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


class Layers(nn.Module):
    """Both layers, so that both operators are in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.mmfs = MMFS(12, 8, spatial_shapes=NOT_SQUARE, num_heads=2, num_points=3, max_age=4, base=(4, 2))
        self.ms_deform_attn = MSDeformAttn(12, n_levels=1, n_heads=2, n_points=2)
        nn.init.normal_(self.mmfs.sampling_offsets.weight)
        nn.init.normal_(self.mmfs.attention_weights.weight)

    def forward(self, query: Tensor, points: Tensor, visible: Tensor, features: Tensor, image: Tensor) -> Tensor:
        seen = self.mmfs(query, points, visible, features=features)  # [B, Q, 12]
        return seen + self.ms_deform_attn(query, points[:, :, None], image, [(2, 3)])


class ListsOfImages(nn.Module):
    """A layer whose queries have lists of images."""

    def __init__(self) -> None:
        super().__init__()
        self.mmfs = MMFS(12, 8, spatial_shapes=NOT_SQUARE, num_heads=2, num_points=3, max_age=4, base=(4, 2))

    def forward(self, query: Tensor, points: Tensor, lists: Tensor, features: Tensor) -> Tensor:
        return self.mmfs(query, points, image_indices=lists, features=features)


def lists_inputs(batch: int, num_queries: int, num_images: int, num_slots: int) -> tuple[Tensor, ...]:
    return (
        torch.randn(batch, num_queries, 12),
        torch.rand(batch, num_queries, num_slots, 2, requires_grad=True),
        torch.randint(-1, num_images, (batch, num_queries, num_slots)),
        torch.randn(num_images, 34, 8),
    )


def test_lists_of_images_are_exported_and_compiled_with_dynamic_sizes() -> None:
    layer = ListsOfImages()
    batch, queries, images, slots = Dim("batch"), Dim("queries"), Dim("images"), Dim("slots")
    by_query = {0: batch, 1: queries}
    by_slot = by_query | {2: slots}
    program = torch.export.export(
        layer, lists_inputs(2, 7, 3, 5), dynamic_shapes=(by_query, by_slot, by_slot, {0: images})
    )
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in [(2, 7, 3, 5), (3, 11, 2, 2), (5, 6, 9, 4)]:
        inputs = lists_inputs(*sizes)
        expected = layer(*inputs)
        assert_equal_up_to_rounding(program.module()(*inputs), expected)
        out = compiled(*inputs)
        assert_equal_up_to_rounding(out, expected)
        (found,) = torch.autograd.grad(out.square().sum(), inputs[1])
        (gradient,) = torch.autograd.grad(expected.square().sum(), inputs[1])
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found, gradient)


def layer_inputs(batch: int, num_queries: int, num_images: int) -> tuple[Tensor, ...]:
    visible = torch.randint(0, num_images + 1, (batch, num_queries, 2)).sort(-1).values
    return (
        torch.randn(batch, num_queries, 12),
        torch.rand(batch, num_queries, 2),
        visible,
        torch.randn(num_images, 34, 8),
        torch.randn(batch, 6, 12),
    )


def test_export_has_one_node_per_operator_and_dynamic_sizes() -> None:
    layers = Layers().eval()
    batch, queries, images = Dim("batch"), Dim("queries"), Dim("images")
    program = torch.export.export(
        layers,
        layer_inputs(2, 7, 3),
        dynamic_shapes=(
            {0: batch, 1: queries},
            {0: batch, 1: queries},
            {0: batch, 1: queries},
            {0: images},
            {0: batch},
        ),
    )
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    ours = [target for target in targets if "mmfs" in str(target)]
    assert sorted(map(str, ours)) == ["mmfs.mmfs_attention.default", "mmfs.ms_deform_attn.default"]
    (node,) = [node for node in program.graph.nodes if node.target is torch.ops.mmfs.mmfs_attention.default]
    assert node.args[1] == FLAT, "the sizes of the levels are constants of the graph"
    exported = program.module()
    for batch_size, num_queries, num_images in [(2, 7, 3), (1, 11, 1), (5, 6, 9)]:
        inputs = layer_inputs(batch_size, num_queries, num_images)
        assert_equal_up_to_rounding(exported(*inputs), layers(*inputs))


IMAGE_SIZES = [(8, 12), (10, 14), (12, 8), (6, 6), (20, 4), (16, 18)]


def test_one_compiled_graph_serves_images_of_all_sizes() -> None:
    pyramid = Pyramid()
    graphs = []

    def counting(graph: Any, _: object) -> Any:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(pyramid, backend=counting)
    for size in IMAGE_SIZES:
        image = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(image), pyramid(image))
    assert len(graphs) == 2, "one of the first sizes, one of all others"


def test_compiled_gradients_for_images_of_all_sizes() -> None:
    pyramid = Pyramid()
    torch.compiler.reset()
    compiled = torch.compile(pyramid, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in IMAGE_SIZES[:3]:
        image = torch.randn(2, 3, *size, requires_grad=True)
        traced, eager = (torch.autograd.grad(module(image).sin().sum(), image)[0] for module in (compiled, pyramid))
        torch.testing.assert_close(traced, eager)


@pytest.mark.parametrize("strict", [False, True])
def test_one_exported_program_serves_images_of_all_sizes(strict: bool) -> None:
    pyramid = Pyramid()
    sizes = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(pyramid, (torch.randn(2, 3, 8, 12),), dynamic_shapes=(sizes,), strict=strict)
    exported = program.module()
    for size in IMAGE_SIZES:
        image = torch.randn(2, 3, *size)
        torch.testing.assert_close(exported(image), pyramid(image))


@pytest.mark.slow
def test_compile_in_one_graph_with_gradients_and_dynamic_sizes() -> None:
    layers = Layers()
    compiled = torch.compile(layers, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in [(2, 7, 3), (3, 9, 5)]:
        inputs = layer_inputs(*sizes)
        results = []
        for module in (layers, compiled):
            layers.zero_grad()
            query = inputs[0].clone().requires_grad_()
            out = module(query, *inputs[1:])
            out.sin().sum().backward()
            results.append([out, query.grad, *(parameter.grad.clone() for parameter in layers.parameters())])
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(traced, eager)


def test_compile_in_one_graph_under_autocast() -> None:
    """The values of another dtype than the query, which is refused without autocast."""
    layer = Layers().mmfs.requires_grad_(False)
    query, points, visible, features, _ = layer_inputs(2, 7, 3)
    values = layer.project_values(features).bfloat16()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        traced = compiled(query, points, visible, values=values)
        torch.testing.assert_close(traced, layer(query, points, visible, values=values))
