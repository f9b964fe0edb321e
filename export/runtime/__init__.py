"""Running an exported model: `Session` reads and writes documents with onnxruntime, TensorRT engines or PyTorch."""

from export.runtime.session import Session

__all__ = ["Session"]
