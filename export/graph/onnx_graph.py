"""A component as an ONNX model, in which every mmfs op is one node with a function body of standard operators.

Attention over a cache is one node too, without a body: `export/graph/kv_cache.py` replaces it afterwards.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import torch
from onnx import ModelProto, TensorShapeProto
from onnxscript.optimizer import optimize_ir

from export.components import cached_attention
from export.components.component import Component
from export.graph.external_data import point_to, without_weights
from export.graph.meta_model import Stored
from models.uninitialized import LARGE_BYTES
from plugins_trt.onnx_function import DOMAIN, attach_functions
from plugins_trt.onnx_node import translation_table

OPSET = 18
"""The version that torch.onnx.export writes by itself: no conversion, and no `Attention` node, whose causal mode
TensorRT reads differently from ONNX. The masks of these graphs are always explicit."""

LARGEST_TRACED = {"batch": 63}
"""diffusers copies larger batches into contiguous memory, a branch that tracing has to exclude. ONNX knows no strides,
so the graph serves larger batches too."""

LARGEST_FILE_BYTES = 2**31 - 1
"""Bytes that protobuf can hold in one message."""


class GraphError(RuntimeError):
    """A component did not become the graph that was declared."""


@dataclass(frozen=True)
class Graph:
    """A component's ONNX model, complete and checked."""

    proto: ModelProto
    num_nodes: int
    """Nodes of the graph itself; function bodies do not count."""

    num_mmfs_nodes: dict[str, int]
    """Nodes of domain `mmfs` by type."""

    seconds: float = 0.0
    """Time that tracing and conversion took; 0 for a graph that was read from its file."""

    @classmethod
    def of(cls, proto: ModelProto, seconds: float = 0.0) -> Graph:
        """A complete model."""
        return cls(proto, len(proto.graph.node), _count_mmfs_nodes(proto), seconds)

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return next(entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx"))


def to_onnx(component: Component, stored: Mapping[int, Stored] | None = None) -> Graph:
    """Trace a component once, with the axes it declares dynamic.

    Args:
        component: what to trace.
        stored: by address, the places of tensors whose numbers are not in memory; the graph points there.

    Raises:
        GraphError: the graph has other inputs, outputs, axes or numbers of nodes than the component declares, or is too
            large for one file.
    """
    start = time.perf_counter()
    dims = {axis: torch.export.Dim(axis, max=LARGEST_TRACED.get(axis)) for axis in component.dynamic_axes()}
    ports = component.inputs.values()
    shapes = [{i: dims[axis] for i, axis in enumerate(port.shape) if isinstance(axis, str)} for port in ports]
    with torch.no_grad(), warnings.catch_warnings():
        # A warning of torch about itself: it unpickles its tree structures by a name that it deprecates.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        traced = torch.export.export(
            _Positional(component.module).eval(), component.trace_inputs(), dynamic_shapes=(tuple(shapes),)
        )
        program = torch.onnx.export(
            traced,
            input_names=list(component.inputs),
            output_names=list(component.outputs),
            opset_version=OPSET,
            optimize=False,  # below instead, without the large weights
            custom_translation_table={**translation_table(), **cached_attention.translation()},
            verbose=False,
        )
    assert program is not None, "it is only without dynamo"
    _take_out(program.model, stored or {})
    optimize_ir(program.model, should_fold=_may_fold)
    proto = attach_functions(_serialized(program.model))
    for item in (*proto.graph.node, *proto.graph.value_info):
        del item.metadata_props[:]  # the exporter's notes: longer than the graph, with paths of this machine
    _check_size(proto, component)
    _name_axes(proto, component)
    onnx.checker.check_model(without_weights(proto), full_check=True)
    graph = Graph.of(proto, time.perf_counter() - start)
    _check_mmfs_nodes(graph, component)
    num_attentions = sum(node.domain == cached_attention.DOMAIN for node in proto.graph.node)
    if num_attentions != component.num_cached_attentions:
        raise GraphError(
            f"{component.name} has {num_attentions} nodes of attention over a cache where the model has "
            f"{component.num_cached_attentions} layers. Each layer has to call scaled_dot_product_attention: open the "
            'host with attn_implementation="sdpa".'
        )
    return graph


def _may_fold(node: ir.Node) -> bool | None:
    """False for nodes with a large weight, whose numbers may be missing; None: the optimizer decides."""
    constants = (value.const_value for value in node.inputs if value is not None)
    return False if any(tensor is not None and tensor.nbytes >= LARGE_BYTES for tensor in constants) else None


class _Elsewhere(ir.ExternalTensor):
    """A tensor whose numbers are not in memory: reading them raises an error."""

    def __init__(self, name: str, dtype: ir.DataType, shape: Sequence[int], stored: Stored) -> None:
        super().__init__("", None, None, dtype, shape=ir.Shape(shape), name=name)
        self.stored = stored

    def tobytes(self) -> bytes:
        """The place instead of the bytes, because the optimizer merges tensors with equal bytes."""
        return repr(self.stored).encode()


def _take_out(model: ir.Model, stored: Mapping[int, Stored]) -> None:
    """Hide the numbers of external tensors from the optimizer: those in memory are undefined."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        raw = getattr(tensor, "raw", None)
        if tensor is not None and isinstance(raw, torch.Tensor) and raw.data_ptr() in stored:
            value.const_value = _Elsewhere(name, tensor.dtype, raw.shape, stored[raw.data_ptr()])


def _serialized(model: ir.Model) -> ModelProto:
    """The model, in which external tensors point to their places."""
    values = model.graph.initializers.items()
    places = {name: value.const_value.stored for name, value in values if isinstance(value.const_value, _Elsewhere)}
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.name in places:
            point_to(tensor, places[tensor.name])
    return proto


class _Positional(torch.nn.Module):
    """Takes one tuple of tensors, so that dynamic axes are declared in the same way for all modules."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.module(*tensors)


def _check_size(proto: ModelProto, component: Component) -> None:
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size > LARGEST_FILE_BYTES:
        raise GraphError(
            f"{component.name} holds {size / 2**30:.1f} GiB of numbers in its graph, and an ONNX file holds 2 GiB. "
            "Trace it without its weights, as python -m export.trt does."
        )


def _name_axes(proto: ModelProto, component: Component) -> None:
    """Give the exporter's symbols the declared names, and refuse axes that the graph has fixed or tied together."""
    names: dict[str, str] = {}
    for values, ports in ((proto.graph.input, component.inputs), (proto.graph.output, component.outputs)):
        if [value.name for value in values] != list(ports):
            raise GraphError(
                f"{component.name} has {[value.name for value in values]} in its graph; declared are {list(ports)}."
            )
        for value, port in zip(values, ports.values(), strict=True):
            found = value.type.tensor_type.shape.dim
            if len(found) != len(port.shape):
                raise GraphError(f"{component.name}: {value.name} has {len(found)} axes; declared is {port.shape}.")
            for dim, axis in zip(found, port.shape, strict=True):
                is_fixed = dim.HasField("dim_value")
                if is_fixed != isinstance(axis, int) or (is_fixed and dim.dim_value != axis):
                    raise GraphError(
                        f"{component.name}: {value.name} has an axis {dim.dim_value or dim.dim_param!r} where {axis!r} "
                        "is declared."
                    )
                if not is_fixed and names.setdefault(dim.dim_param, str(axis)) != axis:
                    raise GraphError(
                        f"{component.name}: the graph ties axis {axis!r} of {value.name} to {names[dim.dim_param]!r}."
                    )
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            _rename(dim, names)


def _rename(dim: TensorShapeProto.Dimension, names: dict[str, str]) -> None:
    if dim.dim_param in names:
        dim.dim_param = names[dim.dim_param]


def _count_mmfs_nodes(proto: ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in proto.graph.node if node.domain == DOMAIN))


def _check_mmfs_nodes(graph: Graph, component: Component) -> None:
    expected = {"MMFS": component.num_synchronizers, "MSDeformAttn": component.num_deformable_attentions}
    expected = {name: count for name, count in expected.items() if count}
    if graph.num_mmfs_nodes != expected:
        raise GraphError(
            f"{component.name} has the mmfs nodes {graph.num_mmfs_nodes} where the model has {expected}: one node per "
            "synchronizer and per deformable attention was expected."
        )
