"""Model FLOPs utilisation: the operations that the model itself asks for, as a share of what its devices could do.

Chowdhery et al., "PaLM", appendix B. What is computed again for the gradient (`recompute`) is time, but no work of the
model's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trainer.config import TrainConfig
from trainer.estimate import batch_shape
from trainer.step_cost import measure, shell

PEAK_TFLOPS = {
    r"A100\b": 312.0,
    r"A30\b": 165.0,
    r"A40\b": 149.7,
    r"A10\b": 125.0,
    r"L40S\b": 362.0,
    r"L40\b": 181.0,
    r"L4\b": 121.0,
    r"H100 PCIe\b": 756.0,
    r"H(100|200) NVL\b": 835.5,
    r"(H100|H200|GH200)(?! (PCIe|NVL))\b": 989.0,
    r"B200\b": 2250.0,
    r"RTX A6000\b": 154.8,
    r"RTX 6000 Ada\b": 364.2,
    r"RTX 3090\b(?! Ti| Laptop)": 71.0,
    r"RTX 4090\b(?! D| Laptop)": 165.2,
    r"RTX 5090\b(?! D| Laptop)": 209.5,
}
"""By PyTorch's name of the GPU: 10^12 dense bfloat16 operations a second with float32 sums, from NVIDIA's data sheets
(half of those that are given with sparsity) and, of GeForce cards, from the white papers of their architectures."""


@dataclass(frozen=True)
class StepFlops:
    """Operations of a step, forward and backward, by what is in its batch; a multiplication and an addition are two.

    Counted are matrix products, convolutions and attention, as `--estimate` counts them.
    """

    rows: float
    """Of the language model, for all rows, padding included."""

    each_image: float
    each_target: float
    each_drawn: float

    @classmethod
    def of(cls, config: TrainConfig) -> StepFlops:
        """Of the main training of a run, from one micro-batch on tensors without data."""
        num_rows = (config.corpus or config.data).num_rows
        shape = batch_shape(config, config.micro_batch_rows or num_rows)
        shape = replace(shape, num_drawn=max(shape.num_drawn, 1), num_targets=max(shape.num_targets, 1))
        cost = measure(shell(config), config, shape)
        flops = {part: forward + cost.backward_flops[part] for part, forward in cost.forward_flops.items()}
        return cls(
            rows=flops["language_model"] * num_rows / shape.num_rows,
            each_image=flops["encoder"] / shape.num_images,
            each_target=flops["logits"] / shape.num_targets,
            each_drawn=flops["image_decoder"] / shape.num_drawn,
        )

    def __call__(self, counts: Sequence[int], num_images: int) -> float:
        """Of a whole step with so many supervised tokens and drawn images, the first two of `counts`."""
        num_targets, num_drawn, *_ = counts
        return self.rows + num_images * self.each_image + num_targets * self.each_target + num_drawn * self.each_drawn


def peak_flops(config: TrainConfig, device: torch.device) -> float | None:
    """Operations a second that one device could do: `peak_tflops`, or for bfloat16 that of a GPU known by its name.
    None: nobody knows."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    if device.type != "cuda" or config.precision != "bfloat16":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The same for a GPU's name; None for one that is not in the table, and for an instance of a divided one."""
    if "MIG" in name:
        return None  # a part of it, of any size
    found = [tflops for pattern, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{pattern}", name)]
    return found[0] * 1e12 if found else None
