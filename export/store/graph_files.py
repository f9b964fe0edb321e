"""What an ONNX file takes from other files, and whether the manifest lists it.

onnxruntime and TensorRT read a graph's external data from wherever the graph says, as far as it is below the graph's
own folder: a file that the manifest does not list would be read without a check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from export.store.manifest import GraphEntry

READS_FILES = "EPContext"
"""An operator of onnxruntime that runs a binary file, or one inside of the graph, which nothing here writes."""


def foreign_parts(root: Path, entry: GraphEntry) -> list[str]:
    """What a graph refers to beside what the manifest lists, in words; empty for what this program has written.

    Args:
        root: the export.
        entry: of the graph, which is there.

    Raises:
        ValueError: the file is no ONNX file.
    """
    file = root / entry.file.path
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise ValueError(f"{file} is no ONNX file ({str(error)[:200]!r}).") from error
    listed = {PurePosixPath(one.path) for one in entry.weights}
    folder = PurePosixPath(entry.file.path).parent
    found = {
        f"numbers in {place!r}"
        for tensor in _tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
        for place in [next((one.value for one in tensor.external_data if one.key == "location"), "")]
        if PurePosixPath(place).name != place or folder / place not in listed
    }
    found |= {f"an operator {READS_FILES}" for node in _nodes(model) if node.op_type == READS_FILES}
    return sorted(found)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """All, also those of inner graphs and functions."""
    left: list[Iterable[NodeProto]] = [model.graph.node, *(function.node for function in model.functions)]
    while left:
        for node in left.pop():
            yield node
            for attribute in node.attribute:
                left += [graph.node for graph in _graphs(attribute)]


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    graphs = [model.graph]
    for node in _nodes(model):
        for attribute in node.attribute:
            graphs += _graphs(attribute)
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            sparse = [
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            ]
            for one in sparse:
                yield from (one.values, one.indices)
    for graph in graphs:
        yield from graph.initializer
        for one in graph.sparse_initializer:
            yield from (one.values, one.indices)


def _graphs(attribute: AttributeProto) -> list[GraphProto]:
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
