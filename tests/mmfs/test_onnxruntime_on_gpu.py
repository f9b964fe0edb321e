"""The nodes on onnxruntime's CUDA execution provider, on a GPU (bench/gpu_check.sh op)."""

from __future__ import annotations

import onnxruntime
import pytest
import torch

import mmfs.onnxruntime
from node_cases import FLAT, node_and_inputs, output_for, reference
from numerics import assert_within_error_budget
from onnx_models import model_of, run_bound
from plugins_trt.node_contract import INPUTS

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
    if dynamic:
        inputs["spatial_shapes"] = torch.tensor(FLAT).view(-1, 2)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # the node has no body: else an error
    mmfs.onnxruntime.register(options)
    model = model_of(node, inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    out = output_for(node, tensors).cuda()
    on_gpu = {name: tensor.cuda() for name, tensor in inputs.items()}
    for _ in range(2):
        out.fill_(torch.nan)
        torch.cuda.synchronize()
        run_bound(session, on_gpu, out)
        exact, baseline = reference(node, tensors, torch.float64), reference(node, tensors, dtype)
        assert_within_error_budget(out.cpu(), baseline=baseline, exact=exact)
