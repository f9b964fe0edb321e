import onnx
import pytest
from onnx import TensorProto, helper

from export.graph.onnx_graph import GraphError
from export.graph.opset import raise_opset


def model_of(operator: str, version: int) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 2, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "one", ports[:1], ports[1:])
    imports = [helper.make_opsetid("", version), helper.make_opsetid("mine", 1)]
    function = helper.make_function(
        "mine", "Inner", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], imports[:1]
    )
    return helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)


def versions(proto: onnx.ModelProto) -> list[int]:
    return [entry.version for owner in (proto, *proto.functions) for entry in owner.opset_import if entry.domain == ""]


def test_graph_and_functions_move_together() -> None:
    proto = model_of("Sin", 18)
    raise_opset(proto, 22)
    assert versions(proto) == [22, 22]
    onnx.checker.check_model(proto, full_check=True)
    raise_opset(proto, 20)
    assert versions(proto) == [22, 22], "it never goes back"


def test_what_may_have_changed_its_meaning_is_refused() -> None:
    proto = model_of("GlobalMaxPool", 18)
    with pytest.raises(GraphError, match="GlobalMaxPool of version 18 may mean something else in version 22"):
        raise_opset(proto, 22)
    assert versions(proto) == [18, 18]
