"""A component in onnxruntime; its inputs and outputs stay where PyTorch has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import mmfs.onnxruntime
from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""The execution provider for each kind of device."""

FLOAT32_PRODUCTS = "1"
"""onnxruntime's name of the type that products are computed in."""

TYPE_NAMES = {
    torch.float64: "tensor(double)",
    torch.float32: "tensor(float)",
    torch.float16: "tensor(float16)",
    torch.bfloat16: "tensor(bfloat16)",
    torch.int64: "tensor(int64)",
    torch.int32: "tensor(int32)",
    torch.uint8: "tensor(uint8)",
    torch.bool: "tensor(bool)",
}
"""What onnxruntime calls the types."""

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
        custom_operators: whether the mmfs nodes are computed by mmfs's kernels where these are there; else by their
            bodies.

    Raises:
        ValueError: this onnxruntime does not run on such a device, or does not load the file.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Port],
        outputs: Mapping[str, Port],
        file: Path,
        device: torch.device,
        *,
        custom_operators: bool = True,
    ) -> None:
        super().__init__(name, inputs, outputs, device)
        self.why_by_body = (
            why_no_custom_operators(device) if custom_operators else "custom operators were not asked for"
        )
        """Why mmfs nodes are computed by their bodies; None: mmfs's kernels compute them."""
        provider = PROVIDERS.get(device.type)
        if provider not in onnxruntime.get_available_providers():
            raise ValueError(
                f"onnxruntime does not run on {device.type!r} here; it has "
                f"{', '.join(onnxruntime.get_available_providers())}. For an NVIDIA GPU: pip install 'mmfs[export-gpu]'"
            )
        try:
            options = session_options(custom_operators=self.why_by_body is None)
            self.session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
        except Exception as error:  # onnxruntime has a class for each reason, and none for all
            raise ValueError(f"onnxruntime does not load {file}: {str(error).strip()[:300]!r}.") from error

    def different_ports(self) -> list[str]:
        """The inputs and outputs that are not in the file, or in no port, or of another type or number of axes."""
        different: set[str] = set()
        for kind, ports, there in (
            ("input", self.inputs, self.session.get_inputs()),
            ("output", self.outputs, self.session.get_outputs()),
        ):
            declared = {name: (str(TYPE_NAMES.get(port.dtype)), len(port.shape)) for name, port in ports.items()}
            found = {one.name: (one.type, len(one.shape)) for one in there}
            different |= {f"{kind} {name!r}" for name, _ in declared.items() ^ found.items()}
        return sorted(different)

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


def why_no_custom_operators(device: torch.device) -> str | None:
    """Why the mmfs nodes of a file are computed by their bodies there; None: mmfs's kernels compute them."""
    if device.type == "cuda":
        return mmfs.onnxruntime.why_not_cuda()
    if device.type != "cpu":
        return f"mmfs's kernels compute on a CPU or by CUDA, and the file runs on {device.type}"
    return mmfs.onnxruntime.why_not()


def who_computes(runners: Iterable[ComponentRunner]) -> str | None:
    """Who computes the mmfs nodes of the components that onnxruntime runs, in words; None: it runs none."""
    found = {(runner.device.type, runner.why_by_body) for runner in runners if isinstance(runner, OnnxRuntimeRunner)}
    if not found:
        return None
    ((device, reason),) = found  # of a session all run on the same device
    kernels = "the CUDA kernels" if device == "cuda" else "the compiled kernel"
    return f"mmfs nodes by {kernels}" if reason is None else f"mmfs nodes by their bodies: {reason}"


def session_options(*, custom_operators: bool) -> onnxruntime.SessionOptions:
    """As many threads as PyTorch uses. Products with eight-bit weights are computed as the graph says; by default,
    onnxruntime would round the other factor to eight bits as well.

    custom_operators: whether mmfs's kernels compute mmfs nodes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if custom_operators:
        mmfs.onnxruntime.register(options)
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", FLOAT32_PRODUCTS)
    return options


def _element_type(dtype: torch.dtype) -> np.dtype | int:
    return BFLOAT16 if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype
