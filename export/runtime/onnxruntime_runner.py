"""A component in onnxruntime; its inputs and outputs stay where PyTorch has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""The execution provider for each kind of device."""

FLOAT32_PRODUCTS = "1"
"""onnxruntime's names of the types."""

BFLOAT16 = 16
"""Its number in ONNX; NumPy has no such type."""


class OnnxRuntimeRunner(ComponentRunner):
    """An ONNX file.

    Args:
        name: of the component.
        inputs: its inputs.
        outputs: its outputs.
        file: the graph.
        device: where to run it.

    Raises:
        ValueError: this onnxruntime does not run on such a device.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Port],
        outputs: Mapping[str, Port],
        file: Path,
        device: torch.device,
    ) -> None:
        super().__init__(name, inputs, outputs, device)
        provider = PROVIDERS.get(device.type)
        if provider not in onnxruntime.get_available_providers():
            raise ValueError(
                f"onnxruntime does not run on {device.type!r} here; it has "
                f"{', '.join(onnxruntime.get_available_providers())}. For an NVIDIA GPU: pip install 'mmfs[export-gpu]'"
            )
        self.session = onnxruntime.InferenceSession(str(file), session_options(), providers=[provider])

    def run(self, inputs: Tensors) -> Tensors:
        binding = self.session.io_binding()
        outputs = self.empty_outputs(inputs)
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                bind(
                    name,
                    self.device.type,
                    self.device.index or 0,
                    _element_type(tensor.dtype),
                    tuple(tensor.shape),
                    tensor.data_ptr(),
                )
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # onnxruntime has a stream of its own
        self.session.run_with_iobinding(binding)
        return outputs


def session_options() -> onnxruntime.SessionOptions:
    """As many threads as PyTorch uses. Products with eight-bit weights are computed as the graph says; by default,
    onnxruntime would round the other factor to eight bits as well."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", FLOAT32_PRODUCTS)
    return options


def _element_type(dtype: torch.dtype) -> np.dtype | int:
    return BFLOAT16 if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype
