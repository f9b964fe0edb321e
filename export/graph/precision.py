"""Half precision written into a graph: every tensor gets its type here; strongly typed builders change none.

Products of matrices and convolutions, and what stands between them, become float16 or bfloat16. These stay
float32: norms with their sums, softmax with its scores, activations, gates, the angles of RoPE and of the time step,
and everything between the last product and the coordinates and logits that MMFS samples with. An operator whose inputs
differ is float32, except for sums along a residual stream and joined tensors, which would otherwise spread.

`check_float32_nodes` (`export/graph/float32_nodes.py`) checks the finished graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.components.all import is_float32_port, spec_of
from export.components.component import Component, Port
from export.formats import Precision
from export.graph.external_data import is_external, without_weights
from export.graph.float32_nodes import (
    FLOAT,
    FLOAT32_OPERATORS,
    MMFS_NARROW,
    NARROW,
    PRODUCTS,
    check_float32_nodes,
    element_type,
    float32_nodes,
)
from export.graph.onnx_graph import GraphError
from export.graph.opset import raise_opset
from plugins_trt.onnx_function import DOMAIN

BFLOAT16_OPSET = 22
"""The first version in which convolutions take bfloat16."""

NOT_BFLOAT16 = frozenset({"ConvTranspose"})
"""Products that stay float32 in a bfloat16 graph: TensorRT-RTX 1.7 fails to build them."""

JOINING = frozenset({"Add", "Sub", "Concat", "TensorScatter"})
"""With inputs of both types these are narrow: the residual stream, and joined maps or rows of the cache."""


def precision_of(component: str, asked: Precision) -> Precision:
    """What a component is exported in: one that overflows float16 stays float32 there."""
    return "float32" if asked == "float16" and not spec_of(component).takes_float16 else asked


def with_precision(component: Component, precision: Precision) -> Component:
    """The component with the types that its ports have in this precision; its module stays float32."""
    if precision == "float32":
        return component
    narrow = getattr(torch, precision)

    def ports(declared: Mapping[str, Port]) -> dict[str, Port]:
        return {
            name: replace(port, dtype=narrow) if port.dtype == torch.float32 and not is_float32_port(name) else port
            for name, port in declared.items()
        }

    return replace(component, inputs=ports(component.inputs), outputs=ports(component.outputs))


def lower_precision(proto: ModelProto, precision: Precision) -> ModelProto:
    """A float32 graph in another precision, types of its ports included; the given graph is left as it is.

    Raises:
        GraphError: an operator that this file cannot judge.
    """
    lowered = ModelProto()
    lowered.CopyFrom(proto)
    if precision == "float32":
        return lowered
    if precision == "bfloat16":
        raise_opset(lowered, BFLOAT16_OPSET)
    drop_nan_guards(lowered)
    _Lowering(lowered, NARROW[precision]).run()
    onnx.checker.check_model(without_weights(lowered), full_check=True)
    check_float32_nodes(lowered, precision)
    return lowered


def drop_nan_guards(proto: ModelProto) -> None:
    """Remove, in place, the nodes that the exporter puts behind a masked softmax: zeros for a row that sees nothing.

    Each row of our masks sees at least itself. TensorRT-RTX 1.7 takes the guarded softmax for the one of an attention
    that it can fuse, and then fails.
    """
    made_by = {name: node for node in proto.graph.node for name in node.output}
    instead: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type != "Where":
            continue
        question = made_by.get(node.input[0])
        if question is not None and question.op_type == "IsNaN" and question.input[0] == node.input[2]:
            softmax = made_by.get(node.input[2])
            if softmax is not None and softmax.op_type == "Softmax":
                instead[node.output[0]] = softmax.output[0]
    kept = [node for node in proto.graph.node if node.output[0] not in instead]
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = instead.get(name, name)
    used = {name for node in kept for name in node.input} | {port.name for port in proto.graph.output}
    del proto.graph.node[:]
    proto.graph.node.extend(node for node in kept if any(name in used for name in node.output))


class _Lowering:
    """One pass over a graph in place."""

    def __init__(self, proto: ModelProto, narrow: int) -> None:
        self.graph = proto.graph
        self.narrow = narrow
        self.narrow_products = PRODUCTS - NOT_BFLOAT16 if narrow == TensorProto.BFLOAT16 else PRODUCTS
        self.constants = _constants(proto.graph)
        self.types: dict[str, int] = {}
        """The type of every float value that is no constant: FLOAT or `narrow`."""

        self.other = _not_float(proto)
        self.wide_nodes = float32_nodes(proto.graph)
        self.users: dict[str, list[NodeProto]] = defaultdict(list)
        for node in proto.graph.node:
            for name in node.input:
                self.users[name].append(node)
        self.nodes: list[NodeProto] = []
        self.cast: dict[tuple[str, int], str] = {}
        """Name of a value in another type."""

    def run(self) -> None:
        for port in self.graph.input:
            if element_type(port) == FLOAT:
                self.types[port.name] = FLOAT if is_float32_port(port.name) else self.narrow
                port.type.tensor_type.elem_type = self.types[port.name]
        outputs = {port.name: port for port in self.graph.output if element_type(port) == FLOAT}
        nodes = list(self.graph.node)
        for node in nodes:
            if node.op_type == "Constant" and node.output[0] in self.constants:
                continue
            self._take(node, outputs)
        for port in outputs.values():
            port.type.tensor_type.elem_type = self._port_type(port.name)
        used = {name for node in self.nodes for name in node.input}
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _port_type(self, name: str) -> int:
        return FLOAT if is_float32_port(name) else self.narrow

    def _take(self, node: NodeProto, outputs: Mapping[str, object]) -> None:
        """Type one node, with casts before it, and after it where it makes an output of the graph."""
        floats = [i for i, name in enumerate(node.input) if name and self._is_float(name)]
        if node.op_type == "Resize":
            floats = floats[:1]  # its scales and regions are float32 whatever it resizes
        for i, type_ in self._input_types(node, floats).items():
            node.input[i] = self._as(node.input[i], type_)
        self.nodes.append(node)
        if node.domain == DOMAIN:
            type_ = self.narrow
        elif not floats:
            type_ = FLOAT
        else:
            type_ = next((self.types[node.input[i]] for i in floats if node.input[i] in self.types), FLOAT)
        for position, name in enumerate(node.output):
            if not name or name in self.other:
                continue
            self.types[name] = type_
            if name in outputs and type_ != self._port_type(name):
                inner = f"{name}_inner"
                node.output[position] = inner
                self.types[inner] = type_
                self.types[name] = self._port_type(name)
                self.cast[name, type_] = inner
                self._emit_cast(inner, name, self._port_type(name))

    def _input_types(self, node: NodeProto, floats: list[int]) -> dict[int, int]:
        if node.domain == DOMAIN:
            return {i: self.narrow if i in MMFS_NARROW[node.op_type] else FLOAT for i in floats}
        if node.domain:
            raise GraphError(f"A node of domain {node.domain!r} has no precision; expected standard operators or mmfs.")
        is_product = node.op_type in PRODUCTS
        is_wide = node.output[0] in self.wide_nodes or (is_product and node.op_type not in self.narrow_products)
        if is_wide or node.op_type in FLOAT32_OPERATORS:
            return dict.fromkeys(floats, FLOAT)
        if is_product:
            return dict.fromkeys(floats, self.narrow)
        if node.op_type == "Cast":
            return {}
        moving = {self.types[node.input[i]] for i in floats if node.input[i] in self.types}
        if moving == {self.narrow} and not all(self._is_exact(node.input[i]) for i in floats):
            moving = {FLOAT}
        if len(moving) == 2:
            moving = {self.narrow} if node.op_type in JOINING else {FLOAT}
        if not moving and self._leads_to_narrow_products(node):
            moving = {self.narrow}
        return dict.fromkeys(floats, moving.pop() if moving else FLOAT)

    def _leads_to_narrow_products(self, node: NodeProto) -> bool:
        """Whether a weight is only transposed here, before a product."""
        users = self.users[node.output[0]]
        return node.op_type == "Transpose" and all(
            user.op_type in self.narrow_products and user.output[0] not in self.wide_nodes for user in users
        )

    def _is_exact(self, name: str) -> bool:
        """Whether a single number keeps its value; a gate or a scale must not be rounded. Weights may be."""
        if name not in self.constants or np.prod(self.constants[name].dims, dtype=np.int64) != 1:
            return True
        number = numpy_helper.to_array(self.constants[name])
        return bool((_rounded(number, self.narrow).astype(np.float32) == number).all())

    def _is_float(self, name: str) -> bool:
        return name in self.types or name in self.constants

    def _as(self, name: str, type_: int) -> str:
        """The value in a type; a constant is converted here, anything else by a Cast node."""
        if name in self.types and self.types[name] == type_:
            return name
        key = (name, type_)
        if key in self.cast:
            return self.cast[key]
        if name in self.constants:
            self.cast[key] = self._converted(name, type_)
        else:
            self.cast[key] = f"{name}_{TensorProto.DataType.Name(type_).lower()}"
            self._emit_cast(name, self.cast[key], type_)
        self.types[self.cast[key]] = type_
        return self.cast[key]

    def _converted(self, name: str, type_: int) -> str:
        tensor = self.constants[name]
        converted = TensorProto()
        if type_ == FLOAT or is_external(tensor):  # external numbers are rounded when they are copied
            converted.CopyFrom(tensor)
            converted.data_type = type_
        else:
            converted.CopyFrom(numpy_helper.from_array(_rounded(numpy_helper.to_array(tensor), type_)))
        converted.name = f"{name}_{TensorProto.DataType.Name(type_).lower()}"
        self.graph.initializer.append(converted)
        return converted.name

    def _emit_cast(self, source: str, target: str, type_: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=type_))


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Float32 constants by name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (attribute,) = node.attribute
            tensor = attribute.t if attribute.name == "value" else numpy_helper.from_array(_number(attribute))
            tensors[node.output[0]] = tensor
    return {name: tensor for name, tensor in tensors.items() if tensor.data_type == FLOAT}


def _number(attribute: onnx.AttributeProto) -> np.ndarray:
    value = helper.get_attribute_value(attribute)
    return np.array(value, np.float32 if attribute.name in ("value_float", "value_floats") else np.int64)


def _not_float(proto: ModelProto) -> set[str]:
    """Values whose elements are not float32."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {value.name for value in values if element_type(value) != FLOAT}


def _rounded(numbers: np.ndarray, type_: int) -> np.ndarray:
    """The numbers in the type; those too large for it become infinite, which the checks find."""
    with np.errstate(over="ignore"):
        return numbers.astype(helper.tensor_dtype_to_np_dtype(type_))
