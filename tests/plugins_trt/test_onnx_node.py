"""Modules through torch.onnx.export: the nodes they become, and that onnxruntime computes what PyTorch does."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, helper
from torch import Tensor, nn
from torch.export import Dim

import mmfs
from plugins_trt.onnx_function import attach_functions
from plugins_trt.onnx_node import translation_table
from pyramid import Pyramid

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # torch.export's own use of its own tree functions
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),  # one Dim for several inputs, as documented
]

SHAPES = ((5, 7), (3, 4))
FLAT_SHAPES = [5, 7, 3, 4]
S = 47
B, Q, N = Dim("B"), Dim("Q"), Dim("N")
BY_QUERY = {0: B, 1: Q}


def export(module: nn.Module, inputs: Sequence[Tensor], dynamic_shapes: object, opset: int | None = None) -> ModelProto:
    """Traced, exported, completed and checked."""
    program = torch.onnx.export(
        module.eval(),
        tuple(inputs),
        dynamo=True,
        dynamic_shapes=dynamic_shapes,
        opset_version=opset,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    model = attach_functions(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: ModelProto, inputs: Sequence[Tensor]) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: tensor.detach().numpy() for name, tensor in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


def relative_error(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


def mmfs_nodes(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.domain == "mmfs"]


def attributes_of(node: NodeProto) -> dict[str, object]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def constants_of(model: ModelProto) -> dict[str, Tensor]:
    return {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer
    }


class MMFSAttentionTwice(nn.Module):
    """mmfs_attention with everything, and with nothing that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.offset_table = nn.Parameter(0.1 * torch.randn(3, 2, 4, 2))  # [A, H, P, 2]
        self.logit_table = nn.Parameter(torch.randn(3, 2, 2, 4))  # [A, H, L, P]
        self.null_value = nn.Parameter(torch.randn(2, 3))  # [H, D]

    def forward(self, value: Tensor, points: Tensor, offsets: Tensor, logits: Tensor, visible: Tensor) -> Tensor:
        inputs = (value, SHAPES, points, offsets, logits, visible)
        full = mmfs.mmfs_attention(
            *inputs,
            offset_table=self.offset_table,
            logit_table=self.logit_table,
            null_logit=-0.75,
            null_value=self.null_value,
        )
        return torch.cat([full, mmfs.mmfs_attention(*inputs, null_logit=None)], dim=-1)


def mmfs_attention_inputs(batch: int, num_queries: int, num_images: int) -> tuple[Tensor, ...]:
    """The last query sees nothing, the first has a location that is not finite."""
    visible = torch.randint(0, num_images + 1, (batch, num_queries, 2)).sort(-1).values
    visible[0, 0] = torch.tensor([0, num_images])
    visible[-1, -1] = 0
    offsets = 0.3 * torch.randn(batch, num_queries, 2, 4, 2)
    offsets[0, 0, 0, 0, 0] = torch.nan
    offsets[0, 0, 1, 1, 1] = -torch.inf
    points = torch.rand(batch, num_queries, 2)
    return torch.randn(num_images, S, 2, 3), points, offsets, torch.randn(batch, num_queries, 2, 2, 4), visible


@pytest.fixture(scope="module")
def mmfs_attention_twice() -> tuple[MMFSAttentionTwice, ModelProto]:
    torch.manual_seed(0)
    module = MMFSAttentionTwice()
    return module, export(module, mmfs_attention_inputs(2, 3, 4), ({0: N}, BY_QUERY, BY_QUERY, BY_QUERY, BY_QUERY))


def test_mmfs_attention_becomes_one_node_with_its_constants_as_attributes(mmfs_attention_twice):
    _, model = mmfs_attention_twice
    full, bare = mmfs_nodes(model)
    assert full.op_type == bare.op_type == "MMFS"
    assert {entry.domain: entry.version for entry in model.opset_import}["mmfs"] == 1
    shared = {"spatial_shapes": FLAT_SHAPES, "plugin_namespace": b"mmfs", "plugin_version": b"1"}
    assert attributes_of(full) == shared | {"null_logit": -0.75, "use_null": 1}
    assert attributes_of(bare) == shared | {"null_logit": 0.0, "use_null": 0}
    assert [list(node.input) for node in (full, bare)] == [
        ["value", "points", "offsets", "logits", "visible", "offset_table", "logit_table", "null_value"],
        ["value", "points", "offsets", "logits", "visible", *bare.input[5:]],
    ]
    zeros = [constants_of(model)[name] for name in bare.input[5:]]
    assert [tuple(tensor.shape) for tensor in zeros] == [(1, 2, 4, 2), (1, 2, 2, 4), (2, 3)]
    assert not any(tensor.any() for tensor in zeros)


class ListsOfImages(nn.Module):
    def forward(self, value: Tensor, points: Tensor, offsets: Tensor, logits: Tensor, lists: Tensor) -> Tensor:
        return mmfs.mmfs_attention(value, SHAPES, points, offsets, logits, image_indices=lists, null_logit=None)


def image_lists_inputs(batch: int, num_queries: int, num_images: int, num_slots: int) -> tuple[Tensor, ...]:
    value, _, offsets, logits, _ = mmfs_attention_inputs(batch, num_queries, num_images)
    points = torch.rand(batch, num_queries, num_slots, 2)
    lists = torch.randint(-1, num_images, (batch, num_queries, num_slots))
    lists[0, 0, 0] = 0  # at least one
    return value, points, offsets, logits, lists


def test_exported_lists_of_images_are_one_node_with_dynamic_sizes():
    torch.manual_seed(0)
    lists = {**BY_QUERY, 2: Dim("K")}
    model = export(ListsOfImages(), image_lists_inputs(2, 3, 4, 5), ({0: N}, lists, BY_QUERY, BY_QUERY, lists))
    (node,) = mmfs_nodes(model)
    assert node.op_type == "MMFSImageLists"
    for sizes in ((2, 3, 4, 5), (1, 1, 1, 1), (3, 4, 7, 2)):
        inputs = image_lists_inputs(*sizes)
        assert relative_error(run(model, inputs), ListsOfImages()(*inputs)) < 1e-5


@pytest.mark.parametrize("sizes", [(2, 3, 4), (1, 1, 1), (3, 5, 7), (2, 2, 0)])
def test_exported_mmfs_attention_runs_at_other_sizes_than_traced(mmfs_attention_twice, sizes):
    module, model = mmfs_attention_twice
    torch.manual_seed(sum(sizes))
    inputs = mmfs_attention_inputs(*sizes)
    assert relative_error(run(model, inputs), module(*inputs)) < 1e-5


def test_an_explicit_opset_is_that_of_model_and_bodies():
    opset = 24
    torch.manual_seed(1)
    module, inputs = MMFSAttentionTwice(), mmfs_attention_inputs(2, 3, 4)
    model = export(module, inputs, ({0: N}, BY_QUERY, BY_QUERY, BY_QUERY, BY_QUERY), opset=opset)
    owners = (model, *model.functions)
    assert {entry.version for owner in owners for entry in owner.opset_import if not entry.domain} == {opset}
    assert [node.op_type for node in mmfs_nodes(model)] == ["MMFS", "MMFS"]
    assert relative_error(run(model, inputs), module(*inputs)) < 1e-5


class Layer(nn.Module):
    """MMFS from queries and features, with null and without; reference points shared by the batch."""

    def __init__(self) -> None:
        super().__init__()
        options = {"spatial_shapes": SHAPES, "num_heads": 2, "num_points": 4, "max_age": 3, "base": (7, 5)}
        self.with_null = mmfs.MMFS(8, 6, **options)
        self.without_null = mmfs.MMFS(8, 6, **options, null=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, query: Tensor, points: Tensor, visible: Tensor, features: Tensor) -> Tensor:
        query = query + self.with_null(query, points, visible, features=features)
        return query + self.without_null(query, points, visible, features=features)


def layer_inputs(batch: int, num_queries: int, num_images: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    points = torch.rand(num_queries, 2)
    _, _, _, _, visible = mmfs_attention_inputs(batch, num_queries, num_images)
    query = torch.randn(batch, num_queries, 8, dtype=dtype)
    return query, points, visible, torch.randn(num_images, S, 6, dtype=dtype)


def test_each_layer_is_one_node_and_runs_at_other_sizes():
    torch.manual_seed(2)
    module = Layer()
    model = export(module, layer_inputs(2, 3, 4, torch.float32), (BY_QUERY, {0: Q}, BY_QUERY, {0: N}), opset=18)
    nodes = mmfs_nodes(model)
    assert [(node.op_type, attributes_of(node)["use_null"]) for node in nodes] == [("MMFS", 1), ("MMFS", 0)]
    assert all(attributes_of(node)["spatial_shapes"] == FLAT_SHAPES for node in nodes)
    for sizes in ((2, 3, 4), (1, 1, 6), (4, 7, 1)):
        inputs = layer_inputs(*sizes, torch.float32)
        assert relative_error(run(model, inputs), module(*inputs)) < 1e-5


def test_the_layer_in_half_precision_is_as_good_as_torch():
    torch.manual_seed(3)
    module = Layer().half()
    inputs = layer_inputs(2, 3, 4, torch.float16)
    out = run(export(module, inputs, (BY_QUERY, {0: Q}, BY_QUERY, {0: N})), inputs)
    assert out.dtype == torch.float16
    own = module(*inputs).double()
    exact = module.double()(*(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs))
    assert (out - exact).abs().max() <= 2 * (own - exact).abs().max()


class MSDeformAttnOnce(nn.Module):
    """Deformable-DETR's module, over and over on the same sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([mmfs.MSDeformAttn(8, n_levels=2, n_heads=2, n_points=3) for _ in range(2)])
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, query: Tensor, points: Tensor, features: Tensor) -> Tensor:
        for layer in self.layers:
            query = query + layer(query, points, features, SHAPES)
        return query


def test_deformable_attention_becomes_one_node_per_layer_and_runs_at_other_sizes():
    torch.manual_seed(4)
    module = MSDeformAttnOnce()

    def inputs_of(batch: int, num_queries: int) -> tuple[Tensor, ...]:
        points = torch.rand(batch, num_queries, 2, 2) * 1.4 - 0.2
        return torch.randn(batch, num_queries, 8), points, torch.randn(batch, S, 8)

    model = export(module, inputs_of(2, 3), (BY_QUERY, BY_QUERY, {0: B}))
    nodes = mmfs_nodes(model)
    assert [node.op_type for node in nodes] == ["MSDeformAttn", "MSDeformAttn"]
    expected = {"spatial_shapes": FLAT_SHAPES, "plugin_namespace": b"mmfs", "plugin_version": b"1"}
    assert [attributes_of(node) for node in nodes] == [expected, expected]
    for sizes in ((2, 3), (1, 1), (3, 6)):
        inputs = inputs_of(*sizes)
        assert relative_error(run(model, inputs), module(*inputs)) < 1e-5


class PyramidOfATensor(Pyramid):
    def sizes(self, *levels: Tensor) -> object:
        return torch.tensor([(level.shape[2], level.shape[3]) for level in levels])


@pytest.mark.parametrize("hint", [Dim.DYNAMIC, Dim.AUTO])
def test_sizes_that_vary_are_an_input_of_the_node(hint: object):
    """Before, with Dim.AUTO, the file declared sizes that vary and the node held those of the trace."""
    torch.manual_seed(5)
    module = Pyramid()
    model = export(module, (torch.randn(2, 3, 8, 12),), ({0: hint, 2: hint, 3: hint},))
    nodes = {node.op_type: node for node in mmfs_nodes(model)}
    assert nodes.keys() == {"DynamicMSDeformAttn", "DynamicMMFS"}
    assert attributes_of(nodes["DynamicMSDeformAttn"]) == {}
    assert attributes_of(nodes["DynamicMMFS"]) == {"null_logit": 0.0, "use_null": 1}
    for size in ((2, 8, 12), (1, 12, 8), (3, 10, 14), (1, 4, 20), (2, 6, 6)):
        image = torch.randn(size[0], 3, *size[1:])
        assert relative_error(run(model, [image]), module(image)) < 1e-5


def test_sizes_that_do_not_vary_stay_an_attribute():
    model = export(Pyramid(), (torch.randn(2, 3, 8, 12),), ({0: Dim.DYNAMIC},))
    nodes = mmfs_nodes(model)
    assert [node.op_type for node in nodes] == ["MSDeformAttn", "MMFS"]
    assert all(attributes_of(node)["spatial_shapes"] == [8, 12, 4, 6] for node in nodes)


def test_sizes_in_a_computed_tensor_are_refused_with_a_sentence():
    with pytest.raises(torch.onnx.OnnxExporterError) as error:
        export(PyramidOfATensor(), (torch.randn(2, 3, 8, 12),), ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},))
    assert "Expected a sequence of (h, w), such as [(features.shape[2]" in str(root_cause(error.value))


def root_cause(error: BaseException) -> BaseException:
    """The exporter wraps what the translation raised, more than once."""
    return error if error.__cause__ is None else root_cause(error.__cause__)


class DifferentSizes(nn.Module):
    def forward(self, value: Tensor, sizes: Tensor, points: Tensor, offsets: Tensor, logits: Tensor, visible: Tensor):
        return torch.ops.mmfs.mmfs_attention(value, [], points, offsets, logits, visible, None, None, 0.0, None, sizes)


def test_images_of_different_sizes_are_refused_with_a_sentence():
    _, *rest = mmfs_attention_inputs(1, 2, 2)
    inputs = (torch.randn(2 * S, 2, 3), torch.tensor(SHAPES).expand(2, -1, -1), *rest)
    with pytest.raises(torch.onnx.OnnxExporterError) as error:
        export(DifferentSizes(), inputs, None)
    assert "sizes that differ between images" in str(root_cause(error.value))


def test_a_dynamic_number_of_points_is_refused_with_a_sentence():
    class Bare(nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            value, *rest = inputs
            return mmfs.mmfs_attention(value, SHAPES, *rest)

    points = Dim("P")
    shapes = ((None, None, {3: points}, {4: points}, None),)
    with pytest.raises(torch.onnx.OnnxExporterError) as error:
        export(Bare(), mmfs_attention_inputs(1, 2, 2), shapes)
    assert "leave them out of dynamic_shapes" in str(root_cause(error.value))
