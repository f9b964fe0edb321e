"""The samplers of the image decoder without diffusers, as numbers: a table with a row for each step.

Every sampler of `models.denoising` is linear in its inputs, so a step is a few multiplications by its row. That needs
only tensors, and can be recorded once and replayed for every step (`export/runtime/drawing.py`).

    clean = keep * latents + use * output
    latents = stay * latents + to_clean * bounded(clean) + to_output * output + from_before * before
              + noise_scale * noise

`clean` is the estimated clean image, `output` the model's output, `before` the bounded `clean` of the previous step.
Letters: n steps, c x h x w latents, M images.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

from models import MMInterleaved
from models.atomic_files import write_atomically
from models.denoising_options import Denoising, SchedulerName
from models.image_decoders.image_decoder import PREDICTION_TYPES
from models.json_files import read_json_object

LEAST_SIGNAL = 2.0**-24
"""Bound in DPM-Solver++, which divides by the signal, where a schedule ends without any (as in diffusers)."""

VARIANCE_TYPES = ("fixed_small", "fixed_large")


@dataclass(frozen=True)
class StepRow:
    """One step's numbers; see the formulas above."""

    timestep: float
    keep: float
    use: float
    stay: float = 0.0
    to_clean: float = 0.0
    to_output: float = 0.0
    from_before: float = 0.0
    noise_scale: float = 0.0


@dataclass(frozen=True)
class NoiseSchedule:
    """What a sampler needs of the noise schedule that the image decoder was trained with."""

    alphas_cumprod: tuple[float, ...]
    """Share of the signal's variance at each training time step."""

    prediction_type: str
    """What `model_output` is: "epsilon" (noise), "v_prediction" (velocity) or "sample" (the clean latents)."""

    clip: float | None
    """Bound of the estimated clean latents; None: unbounded."""

    variance_type: str
    """Of the noise that "ddpm" adds: "fixed_small" or "fixed_large"."""

    @classmethod
    def of(cls, model: MMInterleaved) -> NoiseSchedule:
        """The schedule of a model.

        Raises:
            ValueError: it uses dynamic thresholding or a learned variance, which a table cannot hold.
        """
        config = model.image_decoder.noise_schedule.config
        if config.thresholding:
            raise ValueError("The noise schedule has thresholding=True; the exported sampler clips or does nothing.")
        if config.variance_type not in VARIANCE_TYPES:
            raise ValueError(
                f"The noise schedule has variance_type={config.variance_type!r}; expected fixed_small or fixed_large."
            )
        return cls(
            alphas_cumprod=tuple(model.image_decoder.noise_schedule.alphas_cumprod.tolist()),
            prediction_type=config.prediction_type,
            clip=config.clip_sample_range if config.clip_sample else None,
            variance_type=config.variance_type,
        )

    def save(self, file: Path) -> None:
        """Write JSON."""
        write_atomically(file, json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, file: Path) -> NoiseSchedule:
        """Read what `save` wrote.

        Raises:
            ValueError: it is damaged, or holds what cannot be.
        """
        values = read_json_object(file)
        try:
            schedule = cls(**{**values, "alphas_cumprod": tuple(map(float, values["alphas_cumprod"]))})
            known = schedule.prediction_type in PREDICTION_TYPES and schedule.variance_type in VARIANCE_TYPES
            bounded = schedule.clip is None or float(schedule.clip) > 0
            if not known or not bounded or not all(0 <= share <= 1 for share in schedule.alphas_cumprod):
                raise ValueError("a number or a word that cannot be")
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is no noise schedule ({type(error).__name__}: {error}).") from error
        return schedule

    @property
    def num_train_timesteps(self) -> int:
        """Number of time steps in training."""
        return len(self.alphas_cumprod)

    def timesteps(self, num_steps: int) -> list[int]:
        """From the noisiest downwards; the first is the last of training ("trailing" spacing)."""
        num_train = self.num_train_timesteps
        if not 1 <= num_steps <= num_train:
            raise ValueError(f"There are {num_steps} steps to draw in. Expected 1 to {num_train}, as in training.")
        # Halves go to the even number, as NumPy rounds.
        return [round(num_train - step * (num_train / num_steps)) - 1 for step in range(num_steps)]

    def bound(self, scheduler: SchedulerName) -> float:
        """Bound of the clean estimate; infinite if nothing is clipped. DPM-Solver++ does not clip."""
        return math.inf if self.clip is None or scheduler == "dpm" else self.clip

    def adds_noise(self, denoising: Denoising, done: int) -> bool:
        """Whether the step after `done` ones adds noise."""
        return denoising.scheduler == "ddpm" and self.timesteps(denoising.num_inference_steps)[done] > 0

    def table(self, scheduler: SchedulerName, num_steps: int) -> Tensor:
        """The rows of all steps, [n, fields of `StepRow`] float32, worked out in double precision."""
        times = self.timesteps(num_steps)
        rows: list[StepRow] = []
        for place, time in enumerate(times):
            after = times[place + 1] if place + 1 < num_steps else -1
            if scheduler == "ddim":
                rows.append(self._ddim(time, after))
            elif scheduler == "ddpm":
                rows.append(self._ddpm(time, after))
            else:
                rows.append(self._dpm(time, after, times[place - 1] if place else None))
        return torch.tensor([astuple(row) for row in rows], dtype=torch.float32)

    def _ddim(self, time: int, after: int) -> StepRow:
        """DDIM without noise (arXiv:2010.02502, Eq. 12)."""
        keep, use = self._clean(time)
        signal, noise = _scales(self._alpha(after))
        of_latents, of_output = self._epsilon(time)
        return StepRow(time, keep, use, noise * of_latents, signal, noise * of_output)

    def _ddpm(self, time: int, after: int) -> StepRow:
        """Ancestral sampling (DDPM, arXiv:2006.11239, Eq. 7)."""
        keep, use = self._clean(time)
        here, then = self._alpha(time), self._alpha(after)
        ratio = here / then
        to_clean = math.sqrt(then) * (1 - ratio) / (1 - here)
        stay = math.sqrt(ratio) * (1 - then) / (1 - here)
        small = (1 - then) / (1 - here) * (1 - ratio)
        variance = max(small, 1e-20) if self.variance_type == "fixed_small" else 1 - ratio
        return StepRow(time, keep, use, stay, to_clean, noise_scale=math.sqrt(variance) if time > 0 else 0.0)

    def _dpm(self, time: int, after: int, before: int | None) -> StepRow:
        """DPM-Solver++ of the second order, midpoint (arXiv:2211.01095, algorithm 2); its first step, and its last,
        which removes all noise, are of the first order."""
        keep, use = self._clean(time, LEAST_SIGNAL)
        here = max(self._alpha(time), LEAST_SIGNAL)
        signal, noise = _scales(self._alpha(after))
        if after < 0:
            return StepRow(time, keep, use, to_clean=1.0)
        stretch = _half_log_ratio(self._alpha(after)) - _half_log_ratio(here)
        gain = -signal * math.expm1(-stretch)
        stay = noise / _scales(here)[1]
        if before is None:
            return StepRow(time, keep, use, stay, gain)
        earlier = _half_log_ratio(here) - _half_log_ratio(max(self._alpha(before), LEAST_SIGNAL))
        slope = 0.5 * gain * stretch / earlier
        return StepRow(time, keep, use, stay, gain + slope, from_before=-slope)

    def _clean(self, time: int, least: float = 0.0) -> tuple[float, float]:
        """Shares of latents and model output in the clean estimate."""
        signal, noise = _scales(max(self._alpha(time), least))
        if self.prediction_type == "epsilon":
            return 1 / signal, -noise / signal
        if self.prediction_type == "v_prediction":
            return signal, -noise
        if self.prediction_type == "sample":
            return 0.0, 1.0
        raise ValueError(f"prediction_type is {self.prediction_type!r}; expected epsilon, v_prediction or sample.")

    def _epsilon(self, time: int) -> tuple[float, float]:
        """Shares of latents and model output in the estimated noise."""
        signal, noise = _scales(self._alpha(time))
        if self.prediction_type == "epsilon":
            return 0.0, 1.0
        if self.prediction_type == "v_prediction":
            return noise, signal
        return 1 / noise, -signal / noise

    def _alpha(self, time: int) -> float:
        """Before the first time step there is no noise."""
        return self.alphas_cumprod[time] if time >= 0 else 1.0


def walk(
    row: Tensor, bound: Tensor, latents: Tensor, output: Tensor, before: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step.

    Args:
        row: [fields of `StepRow`] of `NoiseSchedule.table`, or [M, fields], one for each image.
        bound: `NoiseSchedule.bound`: scalar, or [M, 1, 1, 1].
        latents: [M, c, h, w] float32.
        output: [M, c, h, w] float32, the model's.
        before: [M, c, h, w], the second result of the step before; anything finite in the first.
        noise: [M, c, h, w], normal; used where the sampler adds noise.

    Returns:
        The next latents, the clean estimate within its bound, and as it was.
    """
    numbers = row[..., None, None, None].unbind(-4)  # [1, 1, 1] each, or [M, 1, 1, 1]
    _, keep, use, stay, to_clean, to_output, from_before, noise_scale = numbers
    estimate = keep * latents + use * output
    clean = estimate.clamp(-bound, bound)
    latents = stay * latents + to_clean * clean + to_output * output + from_before * before + noise_scale * noise
    return latents, clean, estimate


def _scales(alpha: float) -> tuple[float, float]:
    """Scales of signal and noise."""
    return math.sqrt(alpha), math.sqrt(1 - alpha)


def _half_log_ratio(alpha: float) -> float:
    """Half the logarithm of the ratio of signal to noise."""
    return 0.5 * (math.log(alpha) - math.log1p(-alpha))
