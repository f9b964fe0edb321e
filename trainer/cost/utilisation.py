"""Model FLOPs utilisation: the operations that the model itself asks for, as a share of what its devices could do.

Chowdhery et al., "PaLM", appendix B. What is computed again for the gradient (`recompute`) is time, but no work of the
model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trainer.config import TrainConfig
from trainer.cost.estimate import batch_shape
from trainer.cost.gpu_speed import peak_of
from trainer.cost.step_cost import measure, shell


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
        shape = batch_shape(config, config.memory.micro_batch_rows or num_rows)
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
    if config.logging.peak_tflops is not None:
        return config.logging.peak_tflops * 1e12
    if device.type != "cuda" or config.precision != "bfloat16":
        return None
    return peak_of(torch.cuda.get_device_name(device))
