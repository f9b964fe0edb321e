"""What NVIDIA's GPUs could do, by their names."""

from __future__ import annotations

import re

A100_TFLOPS, H100_TFLOPS = 312.0, 989.0
"""As in the table below, with SXM."""

PEAK_TFLOPS = {
    r"A100\b": A100_TFLOPS,
    r"A30\b": 165.0,
    r"A40\b": 149.7,
    r"A10\b": 125.0,
    r"L40S\b": 362.0,
    r"L40\b": 181.0,
    r"L4\b": 121.0,
    r"H100 PCIe\b": 756.0,
    r"H(100|200) NVL\b": 835.5,
    r"(H100|H200|GH200)(?! (PCIe|NVL))\b": H100_TFLOPS,
    r"B200\b": 2250.0,
    r"RTX A6000\b": 154.8,
    r"RTX 6000 Ada\b": 364.2,
    r"RTX 3090\b(?! Ti| Laptop)": 71.0,
    r"RTX 4090\b(?! D| Laptop)": 165.2,
    r"RTX 5090\b(?! D| Laptop)": 209.5,
}
"""By PyTorch's name of the GPU: 10^12 dense bfloat16 operations a second with float32 sums, from NVIDIA's data sheets
(half of those that are given with sparsity) and, of GeForce cards, from the white papers of their architectures."""


def peak_of(name: str) -> float | None:
    """Operations a second of a GPU; None for one that is not in the table, and for an instance of a divided one."""
    if "MIG" in name:
        return None  # a part of it, of any size
    found = [tflops for pattern, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{pattern}", name)]
    return found[0] * 1e12 if found else None
