"""Entries of the manifest, made from what they describe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from onnx import ModelProto, TensorProto, helper

from export.components.component import Component, Port
from export.graph.kv_cache import aliases_of
from export.graph.onnx_graph import Graph
from export.process.fingerprint import file_digest
from export.store.manifest import (
    ComponentEntry,
    DataType,
    FileEntry,
    GraphEntry,
    PortEntry,
    QuantizedEntry,
    ValidationEntry,
)
from plugins_trt.onnx_function import DOMAIN_VERSION


def component_entry(
    component: Component,
    graph: Graph,
    file: Path,
    validation: ValidationEntry,
    *,
    root: Path,
    quantized: QuantizedEntry | None = None,
) -> ComponentEntry:
    """Of a component whose graph was compared with PyTorch, without engines.

    Args:
        component: with the types and shapes of its ports in the graph.
        graph: what is in the file.
        file: the graph; its weights lie beside it.
        validation: how it was compared.
        root: the export.
        quantized: about weights in eight bits; None: it has none.
    """
    weights = file.with_suffix(".data")
    return ComponentEntry(
        onnx=GraphEntry(
            file_entry(file, root),
            (file_entry(weights, root),) if weights.is_file() else (),
            graph.opset,
            DOMAIN_VERSION,
        ),
        inputs=port_entries(component.inputs),
        outputs=port_entries(component.outputs),
        aliases=aliases_of(component.outputs),
        num_nodes=graph.num_nodes,
        num_mmfs_nodes=graph.num_mmfs_nodes,
        validation=validation,
        engines={},
        quantized=quantized,
    )


def file_entry(file: Path, root: Path) -> FileEntry:
    """Where a file is, how large, and its digest."""
    return FileEntry(file.relative_to(root).as_posix(), file.stat().st_size, file_digest(file))


def port_entries(ports: Mapping[str, Port]) -> tuple[PortEntry, ...]:
    """Inputs or outputs."""
    return tuple(
        PortEntry(name, cast(DataType, str(port.dtype).removeprefix("torch.")), port.shape, port.role)
        for name, port in ports.items()
    )


def quantized_entry(proto: ModelProto) -> QuantizedEntry:
    """The manifest's entry about a graph: which weights have eight bits, and their size without quantization."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    before = after = 0
    types = set()
    nodes = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    for node in nodes:
        matrix, scales = (tensors[name] for name in node.input)
        num_weights, scale_bytes = math.prod(matrix.dims), helper.tensor_dtype_to_np_dtype(scales.data_type).itemsize
        before += num_weights * scale_bytes
        after += num_weights + math.prod(scales.dims) * scale_bytes
        types.add(TensorProto.DataType.Name(matrix.data_type).lower())
    return QuantizedEntry(
        what="matrices of attention and feed-forward",
        scheme=f"{', '.join(types)}, symmetric, a scale per output channel",
        num_matrices=len(nodes),
        bytes_before=before,
        bytes_after=after,
    )
