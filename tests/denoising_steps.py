"""The steps of images from noise, with a function for the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from models.denoising import Denoiser, Step
from models.denoising_options import Denoising


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    noise_schedule: DDPMScheduler,
    denoising: Denoising,
    generators: Sequence[torch.Generator],
) -> Iterator[Step]:
    """What a `Denoiser` makes of the noise [M, c, h, w], step by step.

    Args:
        predict: (latents [M, c, h, w], time step) to the model's output [M, c, h, w].
        latents, noise_schedule, denoising, generators: as for `Denoiser`.
    """
    denoiser = Denoiser(latents, noise_schedule, denoising, generators)
    for done in range(1, 1 + denoising.num_inference_steps):
        denoiser.advance(predict(denoiser.latents, denoiser.timestep))
        yield Step(done, denoiser.latents, denoiser.estimate)
