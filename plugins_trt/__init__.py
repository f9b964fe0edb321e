"""The op inside TensorRT, and its ONNX node."""
