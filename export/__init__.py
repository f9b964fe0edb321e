"""Deployment: the components of a trained model as ONNX files, each compared with PyTorch."""
