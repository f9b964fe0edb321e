"""Versions of the standard ONNX operators: which one a graph says it uses."""

from __future__ import annotations

from onnx import ModelProto, defs

from export.graph.onnx_graph import GraphError

SAME_MEANING = frozenset(
    {
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "Identity", "Shape", "Reshape", "Flatten", "Squeeze"),
        *("Unsqueeze", "Transpose", "Pad", "Equal", "Resize", "Conv", "ConvTranspose", "MaxPool"),
        *("InstanceNormalization", "IsNaN", "Sin", "Cos"),
    }
)
"""Operators whose later versions, up to 24, only take more types or more options."""


def raise_opset(proto: ModelProto, version: int) -> None:
    """Let a graph, with its functions, use a later version of the standard operators; no node has to change.

    Raises:
        GraphError: an operator's meaning may have changed in between.
    """
    (entry,) = (entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if entry.version >= version:
        return
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    changed = {
        node.op_type
        for node in nodes
        if not node.domain
        and node.op_type not in SAME_MEANING
        and defs.get_schema(node.op_type, version).since_version > entry.version
    }
    if changed:
        raise GraphError(
            f"{', '.join(sorted(changed))} of version {entry.version} may mean something else in version {version}. "
            "Expected operators that stayed the same; compare their texts and add them to SAME_MEANING."
        )
    for owner in (proto, *proto.functions):
        for entry in owner.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = version
