"""The forms that an export can take, by the names that its options have. No other module is imported, so that a
command can list them quickly."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Weights = Literal["same", "int8", "fp8"]
"""How the language model keeps its large weights; "same": in the export's precision."""

WEIGHTS: tuple[Weights, ...] = get_args(Weights)

KVCacheLayout = Literal["trt_split", "trt_native", "ort"]
"""How the language model keeps its cache; see `export/graph/kv_cache.py`."""

KV_CACHE_LAYOUTS: tuple[KVCacheLayout, ...] = get_args(KVCacheLayout)
DEFAULT_KV_CACHE: KVCacheLayout = "trt_split"

ServedKind = Literal["onnx", "tensorrt"]
"""What a model repository of Triton holds: the graphs, or TensorRT's engines."""

SERVED_KINDS: tuple[ServedKind, ...] = get_args(ServedKind)

Backend = Literal["ort", "torch", "trt", "rtx"]
"""What computes the components: onnxruntime, PyTorch, or the engines of TensorRT or TensorRT-RTX."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)

SessionBackend = Literal["ort", "torch", "trt", "rtx", "triton"]
"""What a session can be opened with: a back end, or a server of the KServe v2 protocol, which has an address."""

SESSION_BACKENDS: tuple[SessionBackend, ...] = get_args(SessionBackend)

ServedBackend = Literal["auto", SessionBackend]
"""What a server can be told to open a model with; "auto": what can run."""

SERVED_BACKENDS: tuple[ServedBackend, ...] = get_args(ServedBackend)
