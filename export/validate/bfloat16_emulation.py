"""A graph of bfloat16 for a runtime without bfloat16 arithmetic: float32 numbers, rounded wherever the graph rounds.

onnxruntime has no such kernels on the CPU. In the graph made here each value that was bfloat16 is a float32 that a pair
of casts has rounded, so only the order and the precision of sums inside an operator differ from real bfloat16.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

NARROW = TensorProto.BFLOAT16

MOVING = frozenset({"TensorScatter"})
"""Operators that only move rounded numbers. They have to write in place."""


def rounded_float32(proto: ModelProto) -> ModelProto:
    """The same graph with float32 ports; expects inputs that are already rounded, and rounds its outputs."""
    inferred = shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    narrow = {
        value.name
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == NARROW
    }
    model = ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == NARROW:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in narrow:
            nodes += _rounding(node.input[0], node.output[0])
            continue
        made = [name for name in node.output if name in narrow and node.op_type not in MOVING]
        for position, name in enumerate(node.output):
            if name in made:
                node.output[position] = f"{name}_exact"
        nodes.append(node)
        for name in made:
            nodes += _rounding(f"{name}_exact", name)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for port in (*graph.input, *graph.output):
        if port.name in narrow:
            port.type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def _rounding(source: str, target: str) -> list[NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{target}_rounded"], to=NARROW),
        helper.make_node("Cast", [f"{target}_rounded"], [target], to=TensorProto.FLOAT),
    ]
