"""Weights of the FID Inception by a formula: see tests/data/evaluation/README.md."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor


def formula_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def _weight(name: str, shape: Sequence[int]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    u = _uniform(name, prod(shape))
    if name.endswith("running_var"):
        value = 0.5 + u
    elif name.endswith("bn.weight"):
        value = 0.75 + 0.5 * u
    elif name.endswith(("running_mean", "bn.bias", "fc.bias")):
        value = 0.2 * (u - 0.5)
    else:
        rows = u.reshape(shape[0], -1)
        value = (rows - rows.mean(1, keepdims=True)) * np.sqrt(12) * np.sqrt(3 / rows.shape[1])
    return torch.from_numpy(value.reshape(tuple(shape))).float()


def _uniform(name: str, num: int) -> np.ndarray:
    """float64 [num] in [0, 1), from a hash of the name and the place."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    z = (np.arange(num, dtype=np.uint64) + seed).astype(np.uint32)
    for factor, shift in ((0x9E3779B9, 16), (0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        z *= np.uint32(factor)
        z ^= z >> np.uint32(shift)
    return z.astype(np.float64) / 2**32
