"""ONNX models of one mmfs node, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime
import torch
from onnx import ModelProto, helper
from torch import Tensor

import mmfs.onnxruntime
from plugins_trt.node_contract import Node

ELEMENT_TYPES = {
    torch.float32: 1,
    torch.int32: 6,
    torch.int64: 7,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}
"""What ONNX calls the types."""


def one_node_model(
    op_type: str, inputs: Mapping[str, Tensor], *, opset: int = 18, plugin: bool = True, **attributes: object
) -> ModelProto:
    """A model of one mmfs node, without its body, in which every axis is dynamic.

    inputs: tensors with the names and types of its inputs, in order. plugin: whether the node says which plugin
    computes it. attributes: spatial_shapes and more.
    """
    attributes = ({"plugin_namespace": "mmfs", "plugin_version": "1"} if plugin else {}) | attributes
    types = {name: helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype) for name, tensor in inputs.items()}
    graph = helper.make_graph(
        [helper.make_node(op_type, list(inputs), ["out"], domain="mmfs", **attributes)],
        "one_node",
        [
            helper.make_tensor_value_info(name, types[name], [f"{name}_{axis}" for axis in range(tensor.ndim)])
            for name, tensor in inputs.items()
        ],
        [helper.make_tensor_value_info("out", types["value"], ["B", "Q", "H*D"])],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mmfs", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def model_of(node: Node, inputs: Mapping[str, Tensor]) -> ModelProto:
    """A model of a node with inputs of these types; with its form Dynamic... where "spatial_shapes" is among them."""
    dynamic = "spatial_shapes" in inputs
    attributes: dict[str, object] = {} if dynamic else {"spatial_shapes": list(node.spatial_shapes)}
    if node.is_mmfs_attention:
        attributes |= {"null_logit": node.null_logit or 0.0, "use_null": int(node.null_logit is not None)}
    named = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    model = one_node_model(("Dynamic" if dynamic else "") + node.operator, named, plugin=not dynamic, **attributes)
    return typed(model, inputs)


def run(model: ModelProto, inputs: Mapping[str, Tensor], *, custom_operators: bool = False) -> Tensor:
    """What onnxruntime computes on one thread: by the bodies of mmfs nodes, or by the custom operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if custom_operators:
        mmfs.onnxruntime.register(options)
        options.log_severity_level = 4  # errors are raised; onnxruntime would print them too
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(out)


def run_bound(session: onnxruntime.InferenceSession, inputs: Mapping[str, Tensor], out: Tensor) -> Tensor:
    """With the memory of PyTorch's tensors, which may be of types that NumPy does not have."""
    binding = session.io_binding()
    for name, tensor in inputs.items():
        kind, shape = ELEMENT_TYPES[tensor.dtype], tuple(tensor.shape)
        binding.bind_input(name, tensor.device.type, 0, kind, shape, tensor.data_ptr())
    binding.bind_output("out", out.device.type, 0, ELEMENT_TYPES[out.dtype], tuple(out.shape), out.data_ptr())
    session.run_with_iobinding(binding)
    return out


def typed(model: ModelProto, inputs: Mapping[str, Tensor]) -> ModelProto:
    """The model with the types of these inputs, bfloat16 among them."""
    for value in model.graph.input:
        value.type.tensor_type.elem_type = ELEMENT_TYPES[inputs[value.name].dtype]
    model.graph.output[0].type.tensor_type.elem_type = ELEMENT_TYPES[inputs["value"].dtype]
    return model
