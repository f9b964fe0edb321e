import dataclasses
from pathlib import Path

import onnx
import pytest

from export.components.cached_attention import DOMAIN, OPERATOR
from export.components.component import Component, Port
from export.graph.onnx_graph import OPSET, GraphError, to_onnx
from export.store.job import NEUTRAL_DIR
from mmfs import MSDeformAttn
from models import MMInterleaved


def loaded(exported: Path) -> dict[str, onnx.ModelProto]:
    return {file.stem: onnx.load(file) for file in (exported / "onnx").iterdir()}


def test_each_synchronizer_is_one_node_with_a_body(exported: Path, unchanged_model: MMInterleaved) -> None:
    attentions = sum(isinstance(module, MSDeformAttn) for module in unchanged_model.visual_tokenizer.modules())
    expected = {"llm": {"MMFS": 2}, "unet_mmfs": {"MMFS": 2}, "image_tokenizer": {"MSDeformAttn": attentions}}
    for name, proto in loaded(exported).items():
        nodes = [node.op_type for node in proto.graph.node if node.domain == "mmfs"]
        assert {op: nodes.count(op) for op in set(nodes)} == expected.get(name, {}), name
        assert set(nodes) <= {function.name for function in proto.functions if function.domain == "mmfs"}
        operators = {node.op_type for function in proto.functions for node in function.node}
        assert "GridSample" not in operators
        assert not nodes or "Gather" in operators


def test_masks_are_explicit_and_operators_old_enough(exported: Path) -> None:
    for name, proto in loaded(exported).items():
        assert {entry.domain: entry.version for entry in proto.opset_import}[""] == OPSET
        assert not [node.name for node in proto.graph.node if node.op_type == "Attention"], name


def test_attention_over_the_cache_is_one_node_of_the_neutral_graph(exported: Path) -> None:
    proto = onnx.load(exported / NEUTRAL_DIR / "llm.onnx")
    nodes = [node for node in proto.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [OPERATOR] * 2
    assert [list(node.input[1:5]) for node in nodes] == [
        [f"{which}_{part}_{layer}" for which in ("new", "past") for part in ("key", "value")] for layer in range(2)
    ]
    assert "Softmax" not in [node.op_type for node in proto.graph.node]


def test_a_missing_attention_is_an_error(components: dict[str, Component]) -> None:
    wrong = dataclasses.replace(components["mmfs_values_llm"], num_cached_attentions=1)
    with pytest.raises(GraphError, match="mmfs_values_llm has 0 nodes of attention over a cache where the model has 1"):
        to_onnx(wrong)


def test_axes_carry_their_declared_names(exported: Path, components: dict[str, Component]) -> None:
    for name, proto in loaded(exported).items():
        for values, ports in (
            (proto.graph.input, components[name].inputs),
            (proto.graph.output, components[name].outputs),
        ):
            found = {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
            assert found == {port_name: port.shape for port_name, port in ports.items()}


def test_a_missing_node_is_an_error(components: dict[str, Component]) -> None:
    wrong = dataclasses.replace(components["mmfs_values_llm"], num_synchronizers=2)
    with pytest.raises(GraphError, match=r"mmfs_values_llm has the mmfs nodes \{\} where the model has \{'MMFS': 2\}"):
        to_onnx(wrong)


def test_an_axis_that_is_not_what_was_declared_is_an_error(components: dict[str, Component]) -> None:
    decoder = components["vae_decoder"]
    port = decoder.outputs["image"]
    wrong = dataclasses.replace(decoder, outputs={"image": Port(port.dtype, ("batch", 3, 32, "width"))})
    with pytest.raises(GraphError, match="vae_decoder: image has an axis 32 where 'width' is declared"):
        to_onnx(wrong)
