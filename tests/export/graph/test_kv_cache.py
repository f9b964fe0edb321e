"""Each layout of attention over a cache against PyTorch; test_kv_cache_layouts.py has the whole language model."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export.components.cached_attention import DOMAIN, DOMAIN_VERSION, OPERATOR, cached_attention
from export.components.component import Component, Port
from export.components.llm import cached_causal_mask
from export.formats import KV_CACHE_LAYOUTS, KVCacheLayout
from export.graph.float32_nodes import check_float32_nodes
from export.graph.kv_cache import aliases_of, lower_attention, with_kv_cache_layout
from export.graph.onnx_graph import GraphError
from export.graph.precision import lower_precision
from export.runtime.onnxruntime_runner import OnnxRuntimeRunner

CPU = torch.device("cpu")
CAPACITY = 12
SCALE = 0.3
HEADS = [(2, 2), (6, 2)]
"""Of queries, and of keys and values."""

CALLS = {"prefill": ([0, 0], 9), "decode": ([9, 4, 1], 1), "chunk of three": ([5, 9], 3), "one document": ([11], 1)}
"""How many tokens each document has cached, and how many are new."""

Tensors = dict[str, torch.Tensor]


def layer(heads: tuple[int, int]) -> Component:
    """Attention alone, its mask given."""
    queries, rows = heads
    new, past = (Port(torch.float32, ("batch", rows, axis, 4)) for axis in ("tokens", "past"))
    inputs = {
        "query": Port(torch.float32, ("batch", queries, "tokens", 4)),
        "key": new,
        "value": new,
        "past_key_0": past,
        "past_value_0": past,
        "mask": Port(torch.bool, ("batch", 1, "tokens", "past and tokens")),
        "write_indices": Port(torch.int64, ("batch",)),
    }
    outputs = {"hidden_states": inputs["query"], "new_key_0": new, "new_value_0": new}
    return Component("llm", torch.nn.Identity(), inputs, outputs, num_cached_attentions=1)


def neutral(component: Component) -> onnx.ModelProto:
    """Its graph."""
    types = {torch.float32: TensorProto.FLOAT, torch.bool: TensorProto.BOOL, torch.int64: TensorProto.INT64}

    def infos(ports: dict[str, Port]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, types[port.dtype], port.shape) for name, port in ports.items()]

    names = ["query", "new_key_0", "new_value_0", "past_key_0", "past_value_0", "mask", "write_indices"]
    nodes = [
        helper.make_node("Identity", ["key"], ["new_key_0"]),
        helper.make_node("Identity", ["value"], ["new_value_0"]),
        helper.make_node(OPERATOR, names, ["hidden_states"], domain=DOMAIN, scale=SCALE),
    ]
    graph = helper.make_graph(nodes, "layer", infos(component.inputs), infos(component.outputs))
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def capacity_of(kv_cache: KVCacheLayout) -> int | None:
    return CAPACITY if kv_cache == "trt_native" else None


def runner_of(heads: tuple[int, int], kv_cache: KVCacheLayout, folder: Path) -> OnnxRuntimeRunner:
    component, file = layer(heads), folder / f"{kv_cache}.onnx"
    onnx.save(lower_attention(neutral(component), kv_cache, capacity_of(kv_cache)), file)
    component = with_kv_cache_layout(component, kv_cache, capacity_of(kv_cache))
    return OnnxRuntimeRunner(component.name, component.inputs, component.outputs, file, CPU)


def inputs_of(heads: tuple[int, int], lengths: list[int], num_new: int, num_rows: int = CAPACITY) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    batch, (queries, rows) = len(lengths), heads
    write_indices = torch.tensor(lengths)
    sizes = {"query": (queries, num_new), "key": (rows, num_new), "value": (rows, num_new)}
    sizes |= {name: (rows, num_rows) for name in ("past_key_0", "past_value_0")}
    return {
        **{name: torch.randn(batch, *size, 4, generator=generator) for name, size in sizes.items()},
        "mask": cached_causal_mask(write_indices, capacity=num_rows, num_new=num_new),
        "write_indices": write_indices,
    }


def expected_of(inputs: Tensors) -> torch.Tensor:
    return cached_attention(*inputs.values(), SCALE)


def spoiled(inputs: Tensors, name: str, number: float) -> Tensors:
    """The rows of one input that are not valid hold a number."""
    rows = inputs[name].clone()
    for document, length in enumerate(inputs["write_indices"].tolist()):
        rows[document, :, length:] = number
    return {**inputs, name: rows}


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", HEADS, ids=["own-rows", "shared-rows"])
@pytest.mark.parametrize("kv_cache", KV_CACHE_LAYOUTS)
def test_every_kv_cache_layout_attends_and_keeps_the_new_rows(
    tmp_path: Path, kv_cache: KVCacheLayout, heads: tuple[int, int]
) -> None:
    runner = runner_of(heads, kv_cache, tmp_path)
    for lengths, num_new in CALLS.values():
        inputs = inputs_of(heads, lengths, num_new)
        expected, before = expected_of(inputs), inputs["past_key_0"].clone()
        found = runner(**inputs)
        assert close(found["hidden_states"], expected)
        if kv_cache == "trt_split":
            assert torch.equal(found["new_key_0"], inputs["key"])
            assert torch.equal(inputs["past_key_0"], before), "it is only read"
            continue
        assert found["present_key_0"].data_ptr() == inputs["past_key_0"].data_ptr()
        for document, length in enumerate(lengths):
            before[document, :, length : length + num_new] = inputs["key"][document]
        assert torch.equal(inputs["past_key_0"], before), "no other row changes"


def test_a_cache_without_rows_is_one(tmp_path: Path) -> None:
    inputs = inputs_of((2, 2), [0], 3, num_rows=0)
    assert close(runner_of((2, 2), "trt_split", tmp_path)(**inputs)["hidden_states"], expected_of(inputs))


@pytest.mark.parametrize("kv_cache", KV_CACHE_LAYOUTS)
def test_what_stands_behind_the_valid_rows(tmp_path: Path, kv_cache: KVCacheLayout) -> None:
    """Finite numbers never count; what is not finite does not where the module's notes say so, and only there."""
    runner = runner_of((2, 2), kv_cache, tmp_path)
    inputs = inputs_of((2, 2), [5, 8], 3)
    expected = expected_of(inputs)
    for name in ("past_key_0", "past_value_0"):
        assert close(runner(**spoiled(inputs, name, 1e4))["hidden_states"], expected)
    is_counted = {
        name: not close(runner(**spoiled(inputs, name, torch.nan))["hidden_states"], expected)
        for name in ("past_key_0", "past_value_0")
    }
    assert is_counted == {"past_key_0": kv_cache != "trt_split", "past_value_0": True}


@pytest.mark.parametrize("kv_cache", KV_CACHE_LAYOUTS)
def test_operators_and_ports(kv_cache: KVCacheLayout) -> None:
    component = layer((6, 2))
    proto = lower_attention(neutral(component), kv_cache, capacity_of(kv_cache))
    operators = [node.op_type for node in proto.graph.node]
    assert not {entry.domain for entry in proto.opset_import} & {DOMAIN}
    assert operators.count("TensorScatter") == 2 * (kv_cache != "trt_split")
    assert operators.count("Attention") == (kv_cache != "trt_split") == (operators.count("Softmax") == 0)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == (18 if kv_cache == "trt_split" else 24)
    for node in proto.graph.node:
        if node.op_type == "Attention":
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            assert attributes == {"scale": pytest.approx(SCALE), "softmax_precision": TensorProto.FLOAT}
            assert len(node.input) == 4, "query, key, value and the mask: importers misread the rest"
    declared = with_kv_cache_layout(component, kv_cache, capacity_of(kv_cache))
    for values, ports in ((proto.graph.input, declared.inputs), (proto.graph.output, declared.outputs)):
        found = {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        assert found == {name: port.shape for name, port in ports.items()}
    rows = {"trt_split": "past", "ort": "past", "trt_native": CAPACITY}[kv_cache]
    assert declared.inputs["past_key_0"].shape == ("batch", 2, rows, 4)
    aliases = {"present_key_0": "past_key_0", "present_value_0": "past_value_0"}
    assert aliases_of(declared.outputs) == ({} if kv_cache == "trt_split" else aliases)


def test_layers_share_one_mask_over_the_cache() -> None:
    proto = neutral(layer((2, 2)))
    second = onnx.NodeProto()
    second.CopyFrom(proto.graph.node[-1])
    second.output[0], proto.graph.node[-1].output[0] = "hidden_states", "between"
    second.input[0] = "between"
    for position, name in ((3, "past_key_1"), (4, "past_value_1")):
        second.input[position] = name
        port = proto.graph.input.add()
        port.CopyFrom(proto.graph.input[3])
        port.name = name
    proto.graph.node.append(second)
    operators = [node.op_type for node in lower_attention(proto, "ort").graph.node]
    assert operators.count("Attention") == 2
    assert operators.count("GatherElements") == 1


def test_a_graph_without_a_cache_stays_as_it_is() -> None:
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one", [port], [result])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert lower_attention(proto, "trt_native", CAPACITY) == proto


def test_a_second_reader_of_what_changes_is_refused() -> None:
    proto = neutral(layer((2, 2)))
    proto.graph.node.append(helper.make_node("Neg", ["past_key_0"], ["negative"]))
    with pytest.raises(GraphError, match=r"past_key_0 is read by .*Neg.* Expected TensorScatter alone"):
        lower_attention(proto, "ort")


@pytest.mark.parametrize(("kv_cache", "capacity"), [("trt_native", None), ("ort", 8)])
def test_a_capacity_belongs_to_one_kv_cache_layout(kv_cache: KVCacheLayout, capacity: int | None) -> None:
    with pytest.raises(ValueError, match=f"{kv_cache} with a capacity of {capacity}. Expected a number for trt_native"):
        lower_attention(neutral(layer((2, 2))), kv_cache, capacity)
    with pytest.raises(ValueError, match=f"{kv_cache} with a capacity of {capacity}"):
        with_kv_cache_layout(layer((2, 2)), kv_cache, capacity)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_the_softmax_inside_attention_is_a_float32_node(precision: str) -> None:
    proto = lower_precision(lower_attention(neutral(layer((2, 2))), "ort"), precision)
    (node,) = (node for node in proto.graph.node if node.op_type == "Attention")
    node.attribute.remove(next(one for one in node.attribute if one.name == "softmax_precision"))
    with pytest.raises(
        GraphError, match=f"The {precision} graph has lost a float32 node: the softmax inside Attention"
    ):
        check_float32_nodes(proto, precision)
