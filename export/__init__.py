"""Deployment: the components of a trained model as ONNX files, each compared with PyTorch."""

import os

# onnxruntime's wheels report their use over the network from every process that imports them, and keep a database in
# the user's cache folder for it. What nobody asked for is off, unless the variable says otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
