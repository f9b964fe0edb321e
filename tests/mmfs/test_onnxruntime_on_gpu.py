"""The nodes on onnxruntime's CUDA execution provider, on a GPU (bench/gpu_check.sh op)."""

from __future__ import annotations

import onnxruntime
import pytest
import torch

import mmfs.onnxruntime
from node_cases import FLAT, node_and_inputs, reference
from numerics import assert_within_error_budget
from onnx_models import ELEMENT_TYPES, one_node_model, typed
from plugins_trt.node_contract import INPUTS, WEIGHTS

PROVIDER = "CUDAExecutionProvider"
DIM = 40

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        PROVIDER not in onnxruntime.get_available_providers(),
        reason="this onnxruntime does not run on a GPU: pip install onnxruntime-gpu in place of onnxruntime",
    ),
    pytest.mark.skipif(mmfs.onnxruntime.why_not_cuda() is not None, reason=str(mmfs.onnxruntime.why_not_cuda())),
]


@pytest.mark.parametrize("num_queries", [1, 200], ids=["in parts", "whole"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operator", INPUTS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["sizes are an attribute", "sizes are an input"])
def test_a_node_computes_the_op(operator: str, dtype: torch.dtype, num_queries: int, dynamic: bool) -> None:
    node, tensors = node_and_inputs(operator, dtype, dim=DIM, num_queries=num_queries)
    inputs = dict(zip(INPUTS[operator], tensors, strict=True))
    batch = inputs[WEIGHTS[operator]].shape[0]
    attributes: dict[str, object] = {}
    if node.is_mmfs_attention:
        attributes = {"null_logit": node.null_logit or 0.0, "use_null": int(node.null_logit is not None)}
    if dynamic:
        inputs["spatial_shapes"] = torch.tensor(FLAT).view(-1, 2)
    else:
        attributes["spatial_shapes"] = list(FLAT)
    named = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    model = one_node_model(("Dynamic" if dynamic else "") + operator, named, plugin=not dynamic, **attributes)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # the node has no body: else an error
    mmfs.onnxruntime.register(options)
    session = onnxruntime.InferenceSession(typed(model, inputs).SerializeToString(), options, providers=[PROVIDER])
    out = torch.full((batch, num_queries, inputs["value"].shape[2] * DIM), torch.nan, dtype=dtype, device="cuda")
    on_gpu = {name: tensor.cuda() for name, tensor in inputs.items()}
    for _ in range(2):
        out.fill_(torch.nan)
        binding = session.io_binding()
        for name, tensor in on_gpu.items():
            kind, shape = ELEMENT_TYPES[tensor.dtype], tuple(tensor.shape)
            binding.bind_input(name, "cuda", 0, kind, shape, tensor.data_ptr())
        binding.bind_output("out", "cuda", 0, ELEMENT_TYPES[dtype], tuple(out.shape), out.data_ptr())
        torch.cuda.synchronize()
        session.run_with_iobinding(binding)
        exact, baseline = reference(node, tensors, torch.float64), reference(node, tensors, dtype)
        assert_within_error_budget(out.cpu(), baseline=baseline, exact=exact)
