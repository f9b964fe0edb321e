"""From noise to an image: the scheduler, the number of steps, and classifier-free guidance.

Letters: M images to draw, c x h x w their latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from mmfs.arguments import MMFSAttentionArguments
from models.denoising_options import Denoising

SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,  # for its time steps; `ddim_step` is the step
    "dpm": DPMSolverMultistepScheduler,
    "ddpm": DDPMScheduler,
}


@dataclass(frozen=True)
class Step:
    """The state of a drawing after some steps."""

    done: int
    """Steps so far."""

    latents: Tensor
    """[M, c, h, w]; after the last step, the image."""

    estimate: Tensor
    """[M, c, h, w], what the image would be if the last prediction were right."""

    sampled: Sequence[MMFSAttentionArguments] | None = None
    """Where it was recorded, what each synchronizer of the U-Net asked of the op to predict with all conditions: M
    rows, a query for each pixel of its map; see `models.sampling_recorder`."""


def guide(predictions: Tensor, denoising: Denoising) -> Tensor:
    """Combine predictions with more and more conditions into one (classifier-free guidance).

    Args:
        predictions: [k*M, c, h, w]; the last M with context and images, those before with images alone, those before
            with nothing.
        denoising: the strengths.

    Returns:
        [M, c, h, w].
    """
    if not denoising.is_guided:
        return predictions
    *blind, plain, conditional = predictions.chunk(3 if denoising.uses_image_guidance else 2)
    guided = plain + denoising.guidance_scale * (conditional - plain)
    return guided + (denoising.image_guidance_scale - 1) * (plain - blind[0]) if blind else guided


class Denoiser:
    """The way of some images from noise, all at the same step: a prediction of the U-Net after the other.

    Args:
        latents: [M, c, h, w], normal noise.
        noise_schedule: the one that the model was trained with.
        denoising: scheduler and number of steps.
        generators: one for each image, for schedulers that add noise.

    Raises:
        ValueError: more steps than the model was trained with.
    """

    def __init__(
        self,
        latents: Tensor,
        noise_schedule: DDPMScheduler,
        denoising: Denoising,
        generators: Sequence[torch.Generator],
    ) -> None:
        most_steps = noise_schedule.config.num_train_timesteps
        if denoising.num_inference_steps > most_steps:
            raise ValueError(
                f"num_inference_steps is {denoising.num_inference_steps}; this model was trained with {most_steps} "
                "steps of noise, and draws in at most as many."
            )
        self.latents = self.estimate = latents
        """[M, c, h, w] each; see `Step`."""

        self.done = 0
        """Steps so far."""

        self.noise_schedule, self.denoising, self.generators = noise_schedule, denoising, list(generators)
        self._scheduler = SCHEDULERS[denoising.scheduler].from_config(
            noise_schedule.config, timestep_spacing="trailing"
        )
        self._scheduler.set_timesteps(denoising.num_inference_steps, device=latents.device)

    @property
    def timestep(self) -> Tensor:
        """Scalar int64, of the noise in `latents`."""
        return self._scheduler.timesteps[self.done]

    def advance(self, predicted: Tensor) -> None:
        """Take a step with the model's output [M, c, h, w] for `latents` at `timestep`."""
        timesteps, timestep = self._scheduler.timesteps, self.timestep
        self.done += 1
        self.estimate = estimate_clean(predicted, self.latents, self.noise_schedule, timestep)
        if self.denoising.scheduler == "ddim":
            following = timesteps[self.done] if self.done < len(timesteps) else None
            self.latents = ddim_step(predicted, self.estimate, self.latents, self._scheduler, timestep, following)
        else:
            stepped = self._scheduler.step(predicted, timestep, self.latents, generator=self.generators)
            self.latents = stepped.prev_sample

    def select(self, places: Sequence[int]) -> None:
        """Go on with these images."""
        self.latents, self.estimate = self.latents[places], self.estimate[places]
        self.generators = [self.generators[place] for place in places] if self.generators else []
        if self.denoising.scheduler == "dpm":  # it keeps the estimates of the steps before
            before = self._scheduler.model_outputs
            self._scheduler.model_outputs = [None if one is None else one[places] for one in before]


def ddim_step(
    predicted: Tensor,
    estimate: Tensor,
    latents: Tensor,
    scheduler: DDIMScheduler,
    timestep: Tensor,
    following: Tensor | None,
) -> Tensor:
    """A step of DDIM without noise (arXiv:2010.02502, Eq. 12), to the time step that comes next.

    diffusers' own goes back by the number of training steps // the number of steps, which is another time step wherever
    that does not divide, and so leaves noise that the next prediction is not told of.

    Args:
        predicted: [M, c, h, w], the model's output.
        estimate: [M, c, h, w], of `estimate_clean`.
        latents: [M, c, h, w].
        scheduler: with the noise schedule.
        timestep: of these latents.
        following: of the next ones; None: the image, without noise.

    Returns:
        The next latents, [M, c, h, w].

    Raises:
        ValueError: the schedule bounds by dynamic thresholds.
    """
    config = scheduler.config
    if config.thresholding:
        raise ValueError(
            'The noise schedule has thresholding=True, which "ddim" does not do; draw with "dpm" or "ddpm".'
        )
    signal, noise = _signal_and_noise(scheduler, latents, timestep)
    if config.prediction_type == "v_prediction":
        direction = noise * latents + signal * predicted
    elif config.prediction_type == "sample":
        direction = (latents - signal * predicted) / noise
    else:
        direction = predicted
    if config.clip_sample:
        estimate = estimate.clamp(-config.clip_sample_range, config.clip_sample_range)
    if following is None:
        return estimate
    signal, noise = _signal_and_noise(scheduler, latents, following)
    return signal * estimate + noise * direction


def _signal_and_noise(
    schedule: DDPMScheduler | DDIMScheduler, latents: Tensor, timestep: Tensor
) -> tuple[Tensor, Tensor]:
    """The shares of the image and of the noise in latents at a time step, with the latents' dtype and device."""
    kept = schedule.alphas_cumprod.to(latents)[timestep.long()]
    return kept.sqrt(), (1 - kept).sqrt()


def estimate_clean(predicted: Tensor, latents: Tensor, noise_schedule: DDPMScheduler, timestep: Tensor) -> Tensor:
    """The noise-free latents [M, c, h, w] that a prediction implies (DDPM, arXiv:2006.11239, Eq. 15; velocity:
    arXiv:2202.00512, appendix D)."""
    signal, noise = _signal_and_noise(noise_schedule, latents, timestep)
    kind = noise_schedule.config.prediction_type
    if kind == "sample":
        return predicted
    if kind == "v_prediction":
        return signal * latents - noise * predicted
    return (latents - noise * predicted) / signal
