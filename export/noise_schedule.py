"""The sampler of the image decoder without diffusers: deterministic DDIM (Song et al. 2021, Eq. 12) in NumPy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models import MMInterleaved


@dataclass(frozen=True)
class NoiseSchedule:
    """What a sampler has to know about how the image decoder was trained."""

    alphas_cumprod: tuple[float, ...]
    """Share of the signal's variance at each training time step."""

    prediction_type: str
    """What `model_output` is: "epsilon" (noise), "v_prediction" (velocity) or "sample" (the clean latents)."""

    clip: float | None
    """Bound of the estimated clean latents; None: unbounded."""

    @classmethod
    def of(cls, model: MMInterleaved) -> NoiseSchedule:
        """The schedule of a model.

        Raises:
            ValueError: it thresholds dynamically, which this sampler does not do.
        """
        schedule = model.image_decoder.noise_schedule
        if schedule.config.thresholding:
            raise ValueError("The noise schedule has thresholding=True; the exported sampler clips or does nothing.")
        return cls(
            alphas_cumprod=tuple(schedule.alphas_cumprod.tolist()),
            prediction_type=schedule.config.prediction_type,
            clip=schedule.config.clip_sample_range if schedule.config.clip_sample else None,
        )

    def save(self, file: Path) -> None:
        """Write JSON."""
        file.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, file: Path) -> NoiseSchedule:
        """Read what `save` wrote."""
        values = json.loads(file.read_text())
        return cls(**{**values, "alphas_cumprod": tuple(values["alphas_cumprod"])})

    def timesteps(self, num_steps: int) -> list[int]:
        """From the noisiest downwards; the first is the last of training ("trailing" spacing)."""
        num_train = len(self.alphas_cumprod)
        return [round(t) - 1 for t in np.arange(num_train, 0, -num_train / num_steps).round().tolist()][:num_steps]

    def step(self, model_output: np.ndarray, timestep: int, latents: np.ndarray, *, num_steps: int) -> np.ndarray:
        """One step of `num_steps`: the latents at the next time step, from those at `timestep`."""
        previous = timestep - len(self.alphas_cumprod) // num_steps
        signal, noise = self._scales(timestep)
        if self.prediction_type == "epsilon":
            clean, epsilon = (latents - noise * model_output) / signal, model_output
        elif self.prediction_type == "v_prediction":
            clean, epsilon = signal * latents - noise * model_output, signal * model_output + noise * latents
        elif self.prediction_type == "sample":
            clean, epsilon = model_output, (latents - signal * model_output) / noise
        else:
            raise ValueError(f"prediction_type is {self.prediction_type!r}; expected epsilon, v_prediction or sample.")
        if self.clip is not None:
            clean = clean.clip(-self.clip, self.clip)
        signal, noise = self._scales(previous)
        return signal * clean + noise * epsilon

    def _scales(self, timestep: int) -> tuple[np.float32, np.float32]:
        """Scales of signal and noise; before the first time step all is signal."""
        alpha = np.float32(self.alphas_cumprod[timestep] if timestep >= 0 else 1)
        return np.sqrt(alpha), np.sqrt(np.float32(1) - alpha)
