"""The language model's large weights in eight bits: constants with a scale per output channel, and a DequantizeLinear
behind each. Activations stay as they are.

Quantized are the matrices of attention and feed-forward, which a decoder reads for every token. All else keeps its
numbers: norms, MMFS with its locations and weights, and the head, which has 1/80 of a LLaMA-13B's weights and whose
errors no later layer evens out.

A weight is read a few rows at a time, so that no float32 copy of it is ever in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.components.all import spec_of
from export.formats import Precision, Weights
from export.graph.external_data import is_external, without_weights, write_weights
from export.graph.float32_nodes import NARROW, back_to_products, check_float32_nodes, float32_nodes
from export.graph.onnx_graph import GraphError
from export.graph.opset import raise_opset
from models import MMInterleaved
from plugins_trt.onnx_function import DOMAIN

QUANTIZED = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
LARGEST = {TensorProto.INT8: 127.0, TensorProto.FLOAT8E4M3FN: 448.0}
"""The eight-bit number of the largest weight of a channel."""

DEQUANTIZE_OPSET = 19
"""The first version whose DequantizeLinear takes eight-bit floats, and scales of half precision."""

MOVING = frozenset({"Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that leave numbers as they are."""


def weights_of(component: str, asked: Weights) -> Weights:
    """How a component keeps its weights."""
    return asked if spec_of(component).takes_eight_bit_weights else "same"


def matrices_of(model: MMInterleaved) -> list[Tensor]:
    """The matrices that are quantized, each [outputs, inputs]; `large_weights` finds the same in the graph."""
    layers = model.language_model.decoder.modules()
    return [layer.weight for layer in layers if isinstance(layer, nn.Linear)]


def write_quantized(proto: ModelProto, weights: Weights, precision: Precision, checkpoint: Path, file: Path) -> None:
    """As `write_weights`, with the large weights in eight bits; the graph is changed in place.

    Args:
        proto: the language model, in its precision.
        weights: "int8" or "fp8".
        precision: of the graph.
        checkpoint: the directory with the files that it points to now.
        file: where the weights go.

    Raises:
        GraphError: there is nothing to quantize, or a float32 node would lose precision.
        ValueError: a file of the checkpoint is too short.
    """
    raise_opset(proto, DEQUANTIZE_OPSET)
    channels = _quantize(proto.graph, QUANTIZED[weights])
    write_weights(proto, checkpoint, file, channels)
    for one in channels.values():
        one.finish()
    check_quantized_weights(proto.graph)
    onnx.checker.check_model(without_weights(proto), full_check=True)
    if precision in NARROW:
        check_float32_nodes(proto, precision)


class Channels:
    """Converts a matrix to eight bits, any number of whole rows at a time.

    Args:
        matrix: [rows, columns] of the type that it takes.
        scales: [rows] or [columns], in the type of the product; their numbers come with `finish`.
        axis: of the output channels, 0 or 1; 1 needs all rows at once.
    """

    def __init__(self, matrix: TensorProto, scales: TensorProto, axis: int) -> None:
        self.scales, self._axis = scales, axis
        self._num_columns = matrix.dims[1]
        self._type, self._largest = helper.tensor_dtype_to_np_dtype(matrix.data_type), LARGEST[matrix.data_type]
        self._scale_type = helper.tensor_dtype_to_np_dtype(scales.data_type)
        self._found: list[np.ndarray] = []

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """The next rows, flat, in eight bits."""
        rows = numbers.astype(np.float32).reshape(-1, self._num_columns)
        # The scale is rounded first, so that its rounding adds no error; a channel of zeros may have any.
        scales = (np.abs(rows).max(axis=1 - self._axis) / self._largest).astype(self._scale_type)
        scales = np.where(scales == 0, np.ones_like(scales), scales)
        self._found.append(scales)
        steps = rows / np.expand_dims(scales.astype(np.float32), 1 - self._axis)
        if self._type == np.int8:
            steps = np.rint(steps)
        return np.clip(steps, -self._largest, self._largest).astype(self._type)

    def finish(self) -> None:
        """After all rows: write their scales into the graph."""
        self.scales.raw_data = np.concatenate(self._found).tobytes()


def _quantize(graph: GraphProto, type_: int) -> dict[str, Channels]:
    """Replace large weights by DequantizeLinear. Those in the graph are encoded; of the external ones the encoders are
    returned, by name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    elsewhere: dict[str, Channels] = {}
    nodes: list[NodeProto] = []
    for name, axis in large_weights(graph).items():
        weight = tensors[name]
        if axis == 1 and is_external(weight):
            raise GraphError(f"{name} is multiplied as it is stored; expected [outputs, inputs], as of a linear layer.")
        scales = TensorProto(name=f"{name}_scale", data_type=weight.data_type, dims=[weight.dims[axis]])
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}_quantized", scales.name], [name], name=f"dequantize_{name}", axis=axis
            )
        )
        numbers = None if is_external(weight) else numpy_helper.to_array(weight)
        weight.name, weight.data_type = f"{name}_quantized", type_
        graph.initializer.append(scales)
        encoder = Channels(weight, graph.initializer[-1], axis)
        if numbers is None:
            elsewhere[weight.name] = encoder
        else:
            for field in ("float_data", "int32_data"):
                weight.ClearField(field)
            weight.raw_data = encoder.encode(numbers).tobytes()
            encoder.finish()
    if not nodes:
        raise GraphError("The language model has no products of attention or feed-forward whose weights are constant.")
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return elsewhere


def large_weights(graph: GraphProto) -> dict[str, int]:
    """Matrices of attention and feed-forward by name, with the axis of their output channels."""
    made_by = {name: node for node in graph.node for name in node.output}
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    kept = _kept_products(graph)
    found: dict[str, int] = {}
    others: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        name, axis = node.input[1], 1
        before = made_by.get(name)
        if before is not None and before.op_type == "Transpose":
            name, axis = before.input[0], 0
        if name not in matrices:
            continue
        if node.output[0] in kept:
            others.add(name)
        else:
            found[name] = axis
    return {name: axis for name, axis in found.items() if name not in others}


def check_quantized_weights(graph: GraphProto) -> None:
    """Refuse a graph in which a weight of eight bits is used outside of products of attention and feed-forward.

    Raises:
        GraphError: naming the node.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    kept = _kept_products(graph)
    for node in graph.node:
        if node.op_type in MOVING:
            continue
        for name in node.input:
            source = _source(name, made_by)
            is_quantized = source is not None and source.op_type == "DequantizeLinear"
            if is_quantized and (node.op_type != "MatMul" or node.output[0] in kept):
                raise GraphError(
                    f"{name} of {node.op_type} {node.name!r} comes from a weight of eight bits. Expected that only in "
                    "products of attention and feed-forward."
                )


def _kept_products(graph: GraphProto) -> set[str]:
    """Outputs of nodes whose weights must not have eight bits: the head, the float32 nodes, and everything of MMFS."""
    made_by = {name: node for node in graph.node for name in node.output}
    kept = {node.output[0] for node in back_to_products("logits", made_by, inclusive=True)} | float32_nodes(graph)
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        source = _source(node.input[0], made_by, constants)
        if source is None:
            continue
        if source.domain == DOMAIN:  # from what was sampled
            kept.add(node.output[0])
        elif node.output[0] in kept:  # to the locations and weights of samples
            kept.add(source.output[0])
    return kept


def _source(name: str, made_by: Mapping[str, NodeProto], constants: Collection[str] = ()) -> NodeProto | None:
    """The node that computed a value, skipping nodes that only move it or add one of `constants`. None: no node."""
    node = made_by.get(name)
    while node is not None:
        if node.op_type in MOVING:
            node = made_by.get(node.input[0])
        elif node.op_type == "Add" and any(other in constants for other in node.input):
            node = made_by.get(next((other for other in node.input if other not in constants), ""))
        else:
            break
    return node
