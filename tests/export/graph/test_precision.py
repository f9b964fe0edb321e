from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.components.all import FLOAT32_PORTS
from export.components.check_inputs import Case
from export.components.component import Component
from export.components.profiles import Limits
from export.engine.build import BuildOptions, build_engines
from export.graph.float32_nodes import NARROW, check_float32_nodes, num_products
from export.graph.kv_cache import lower_attention
from export.graph.onnx_graph import GraphError
from export.graph.precision import drop_nan_guards, lower_precision, precision_of, with_precision
from export.graph.quantization import write_quantized
from export.store.entries import file_entry
from export.store.job import NEUTRAL_DIR
from export.store.manifest import read_manifest, write_manifest
from export.validate.half_precision import check_greedy, check_half, check_seeing
from export.validate.validate import run_of
from models import MMInterleaved

NAMES = ["image_tokenizer", "mmfs_values_llm", "mmfs_values_unet", "llm", "context_resampler", "unet_mmfs"]
HALF = ["float16", "bfloat16"]


@pytest.fixture(scope="session")
def lowered(exported: Path) -> Callable[[str, str], onnx.ModelProto]:
    """A component of the tiny model in half precision."""

    def lower(name: str, precision: str) -> onnx.ModelProto:
        neutral = onnx.load(exported / NEUTRAL_DIR / f"{name}.onnx")
        return lower_precision(lower_attention(neutral, "trt_split"), precision)

    return lower


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", NAMES)
def test_every_component_passes_the_tolerances(
    unchanged_model: MMInterleaved,
    components: dict[str, Component],
    cases: dict[str, list[Case]],
    lowered: Callable[[str, str], onnx.ModelProto],
    tmp_path: Path,
    name: str,
    precision: str,
) -> None:
    proto = lowered(name, precision)
    declared = with_precision(components[name], precision)
    for values, ports in ((proto.graph.input, declared.inputs), (proto.graph.output, declared.outputs)):
        types = {value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in values}
        assert {port: str(type_) for port, type_ in types.items()} == {
            port: str(declared_port.dtype).removeprefix("torch.") for port, declared_port in ports.items()
        }
    products = num_products(proto)
    assert products[precision] > 3 * products["float"]

    file = tmp_path / "onnx/half.onnx"
    file.parent.mkdir()
    onnx.save(proto, file)
    run = run_of(components[name], file, precision)
    results = check_half(components[name], run, cases[name], precision)
    assert all(0 < error < 0.02 for result in results for error in result.relative_errors.values())
    if name in ("llm", "unet_mmfs"):
        check_seeing(components[name], run, cases[name][0])
    if name == "llm":
        assert check_greedy(components[name], run, unchanged_model.language_model.embed, cases[name][0], 4) == 4


def test_the_vae_stays_float32_where_it_would_overflow() -> None:
    assert precision_of("vae_decoder", "float16") == "float32"
    assert precision_of("vae_decoder", "bfloat16") == "bfloat16"
    assert precision_of("llm", "float16") == "float16"


@pytest.mark.parametrize(
    ("operator", "position", "what"),
    [
        ("Softmax", 0, "the softmax needs float32"),
        ("Pow", 0, "the norm needs float32"),
        ("Cos", 0, "the angle needs float32"),
        ("MMFS", 2, "the location or weight of a sample needs float32"),
        ("MMFS", 3, "the location or weight of a sample needs float32"),
    ],
    ids=["softmax", "norm", "rope", "offsets", "logits"],
)
def test_a_lost_float32_node_is_found(
    lowered: Callable[[str, str], onnx.ModelProto], operator: str, position: int, what: str
) -> None:
    """Rounded to float16 on its way, the value is float32 again where it is used, or not."""
    proto = lowered("llm", "float16")
    node = next(node for node in proto.graph.node if node.op_type == operator)
    at = list(proto.graph.node).index(node)
    before = [helper.make_node("Cast", [node.input[position]], ["rounded"], to=NARROW["float16"])]
    after = []
    if operator == "MMFS":
        before.append(helper.make_node("Cast", ["rounded"], ["again"], to=TensorProto.FLOAT))
        node.input[position] = "again"
    else:
        after.append(helper.make_node("Cast", ["narrow"], [node.output[0]], to=TensorProto.FLOAT))
        node.input[position], node.output[0] = "rounded", "narrow"
    nodes = list(proto.graph.node)
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend([*nodes[:at], *before, node, *after, *nodes[at + 1 :]])
    with pytest.raises(GraphError, match=rf"has lost a float32 node: .*{what}"):
        check_float32_nodes(proto, "float16")


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], output: str = "logits") -> onnx.ModelProto:
    """From hidden_states [2, 4] float32 to an output of the same shape."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("hidden_states", output)]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("gate", "type_"), [(0.5, TensorProto.FLOAT16), (0.3, TensorProto.FLOAT)])
def test_a_single_number_is_rounded_only_where_nothing_is_lost(gate: float, type_: int) -> None:
    proto = graph_of(
        [
            helper.make_node("MatMul", ["hidden_states", "weight"], ["product"]),
            helper.make_node("Mul", ["product", "gate"], ["logits"]),
        ],
        {"weight": np.eye(4, dtype=np.float32), "gate": np.array([gate], np.float32)},
    )
    half = lower_precision(proto, "float16")
    multiply = next(node for node in half.graph.node if node.op_type == "Mul")
    used = {tensor.name: tensor for tensor in half.graph.initializer}[multiply.input[1]]
    assert used.data_type == type_
    assert numpy_helper.to_array(used) == np.float32(gate)
    assert proto.graph.node[1].input[1] == "gate", "the given graph is left as it is"


def test_a_graph_without_anything_narrow_is_refused() -> None:
    proto = graph_of(
        [helper.make_node("MatMul", ["hidden_states", "weight"], ["logits"])], {"weight": np.eye(4, dtype=np.float32)}
    )
    with pytest.raises(GraphError, match="No product of the float16 graph is float16"):
        check_float32_nodes(proto, "float16")


def test_what_has_no_precision_is_refused() -> None:
    proto = graph_of([helper.make_node("Gadget", ["hidden_states"], ["logits"], domain="else")], {})
    proto.opset_import.append(helper.make_opsetid("else", 1))
    with pytest.raises(GraphError, match="A node of domain 'else' has no precision"):
        lower_precision(proto, "float16")


def test_only_the_guard_behind_a_softmax_goes() -> None:
    nodes = [
        helper.make_node("Softmax", ["hidden_states"], ["share"]),
        helper.make_node("IsNaN", ["share"], ["is_nan"]),
        helper.make_node("Where", ["is_nan", "zero", "share"], ["guarded"]),
        helper.make_node("IsNaN", ["guarded"], ["own"]),
        helper.make_node("Where", ["own", "zero", "guarded"], ["logits"]),
    ]
    proto = graph_of(nodes, {"zero": np.zeros(1, np.float32)})
    drop_nan_guards(proto)
    assert [node.op_type for node in proto.graph.node] == ["Softmax", "IsNaN", "Where"]
    onnx.checker.check_model(proto, full_check=True)


def test_what_a_runtime_computes_with_stays_float32(components: dict[str, Component]) -> None:
    for component in components.values():
        for ports in (with_precision(component, "bfloat16").inputs, with_precision(component, "bfloat16").outputs):
            assert {name for name, port in ports.items() if port.dtype == torch.float32} == ports.keys() & FLOAT32_PORTS


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("name", "precision", "weights"),
    [
        ("llm", "float16", "int8"),
        ("llm", "bfloat16", "fp8"),
        ("image_tokenizer", "bfloat16", "same"),
    ],
)
def test_tensorrt_rtx_builds_it_with_its_plugins(
    exported: Path,
    lowered: Callable[[str, str], onnx.ModelProto],
    tmp_path: Path,
    name: str,
    precision: str,
    weights: str,
) -> None:
    file = tmp_path / f"onnx/{name}.onnx"
    file.parent.mkdir()
    proto = lowered(name, precision)
    if weights != "same":
        write_quantized(proto, weights, precision, tmp_path, file.with_suffix(".data"))
    onnx.save(proto, file)
    manifest = read_manifest(exported)
    entry = manifest.components[name]
    component = replace(entry, onnx=replace(entry.onnx, file=file_entry(file, tmp_path), weights=()))
    write_manifest(tmp_path, replace(manifest, components={name: component}))
    limits = Limits(max_batch=2, max_tokens=4, max_past=8, max_images=3)
    build_engines(tmp_path, BuildOptions("rtx", limits, architectures=("sm_80",)), lambda _line: None)
    (engine,) = read_manifest(tmp_path).components[name].engines.values()
    assert engine.status == "built"
    assert engine.num_plugins == entry.num_mmfs_nodes != {}
