"""Deployment: the parts of a trained model as ONNX files, each proved equal to PyTorch."""
