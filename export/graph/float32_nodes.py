"""Which parts of a graph of half precision stay float32, and whether a finished graph has kept them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from export.components.all import is_float32_port
from export.graph.onnx_graph import GraphError
from plugins_trt.node_contract import INPUTS
from plugins_trt.onnx_function import DOMAIN

FLOAT = TensorProto.FLOAT
NARROW = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
"""Element types by name."""

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Attention"})
FLOAT32_OPERATORS = {
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"), "norm"),
    **dict.fromkeys(("BatchNormalization", "ReduceMean", "ReduceSum", "Pow", "Sqrt", "Reciprocal"), "norm"),
    **dict.fromkeys(("Softmax", "LogSoftmax", "IsNaN", "ReduceMax", "Exp", "Log"), "softmax"),
    **dict.fromkeys(("Sin", "Cos"), "angle"),
    **dict.fromkeys(("Tanh", "Sigmoid", "Erf", "Softplus"), "activation or gate"),
}
"""Operators that compute in float32, and the part of the model that they belong to."""

ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Where"})

MMFS_NARROW = {
    operator: tuple(names.index(name) for name in ("value", "null_value") if name in names)
    for operator, names in INPUTS.items()
}
"""Inputs of the mmfs nodes that are projected features; the others say where and how much to sample."""


def check_float32_nodes(proto: ModelProto, precision: str) -> None:
    """Refuse a graph of half precision in which a float32 node has been lost, or in which hardly any is narrow.

    Raises:
        GraphError: naming the node and what it belongs to.
    """
    narrow = NARROW[precision]
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    types = {
        value.name: element_type(value)
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    types |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    halves = set(NARROW.values())
    made_by = {name: node for node in proto.graph.node for name in node.output}
    num_narrow = Counter[bool]()

    def refuse(node: NodeProto, name: str, what: str) -> None:
        raise GraphError(
            f"The {precision} graph has lost a float32 node: {name} at {node.op_type} {node.name!r} is "
            f"{TensorProto.DataType.Name(types[name]).lower()}, and {what} needs float32."
        )

    for node in proto.graph.node:
        if node.op_type in FLOAT32_OPERATORS and not node.domain:
            for name in node.input:
                if types.get(name) in halves:
                    refuse(node, name, f"the {FLOAT32_OPERATORS[node.op_type]}")
        if node.op_type == "Attention" and not any(
            attribute.name == "softmax_precision" and attribute.i == FLOAT for attribute in node.attribute
        ):
            raise GraphError(
                f"The {precision} graph has lost a float32 node: the softmax inside Attention {node.name!r} needs "
                "float32, which softmax_precision has to say."
            )
        for root, what in float32_node_inputs(node):
            for ancestor in back_to_products(root, made_by, inclusive=what != "softmax"):
                for name in (*ancestor.input, *ancestor.output):
                    is_widened = ancestor.op_type == "Cast" and name in ancestor.input
                    if types.get(name) in halves and not is_widened:
                        refuse(ancestor, name, f"the {what}")
            if types.get(root) in halves:
                refuse(node, root, f"the {what}")
        if node.op_type in PRODUCTS:
            num_narrow[types.get(node.output[0]) == narrow] += 1
    if num_narrow.total() and not num_narrow[True]:
        raise GraphError(f"No product of the {precision} graph is {precision}: nothing would be faster or smaller.")
    for port in (*proto.graph.input, *proto.graph.output):
        if is_float32_port(port.name) and element_type(port) != FLOAT:
            raise GraphError(f"{port.name} of the {precision} graph is not float32, which a runtime computes it in.")


def num_products(proto: ModelProto) -> Counter[str]:
    """How many products of matrices and convolutions a graph has, by the type of their inputs."""
    inferred = onnx.shape_inference.infer_shapes(proto)
    types = {value.name: element_type(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    return Counter(
        TensorProto.DataType.Name(types[node.output[0]]).lower()
        for node in proto.graph.node
        if node.op_type in PRODUCTS and node.output[0] in types
    )


def float32_nodes(graph: onnx.GraphProto) -> set[str]:
    """First outputs of the nodes that are float32 because of the nodes that they lead to."""
    for node in graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise GraphError(f"{node.op_type} {node.name!r} holds a graph of its own. Expected none: no precision.")
    made_by = {name: node for node in graph.node for name in node.output}
    return {
        ancestor.output[0]
        for node in graph.node
        for root, what in float32_node_inputs(node)
        for ancestor in back_to_products(root, made_by, inclusive=what != "softmax")
    }


def float32_node_inputs(node: NodeProto) -> Iterable[tuple[str, str]]:
    """Inputs of a node that are computed in float32 from the last product on, with their meaning."""
    if node.domain == DOMAIN:
        narrow = MMFS_NARROW[node.op_type]
        return [(name, "location or weight of a sample") for i, name in enumerate(node.input) if i not in narrow]
    if node.op_type in ("Sin", "Cos"):
        return [(node.input[0], "angle")]
    if node.op_type == "Softmax":
        return [(node.input[0], "softmax")]
    return []


def back_to_products(root: str, made_by: Mapping[str, NodeProto], *, inclusive: bool) -> list[NodeProto]:
    """The nodes that a value comes from, back to the last products.

    inclusive: with the products themselves; without, only through arithmetic on elements.
    """
    found: dict[str, NodeProto] = {}
    waiting = [root]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or node.output[0] in found:
            continue
        if node.op_type in PRODUCTS:
            if inclusive:
                found[node.output[0]] = node
            continue
        if not inclusive and node.op_type not in ELEMENTWISE:
            continue
        found[node.output[0]] = node
        waiting.extend(node.input)
    return list(found.values())


def element_type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type
