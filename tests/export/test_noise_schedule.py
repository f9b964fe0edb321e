import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from export.noise_schedule import NoiseSchedule
from models import MMInterleaved, MMInterleavedConfig


def model_with(config: MMInterleavedConfig, **scheduler: object) -> MMInterleaved:
    decoder = dataclasses.replace(config.image_decoder, scheduler=scheduler)
    return MMInterleaved(dataclasses.replace(config, image_decoder=decoder))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip_sample", [True, False])
@pytest.mark.parametrize("num_steps", [1, 7, 30])
def test_steps_are_those_of_diffusers(
    config: MMInterleavedConfig, tmp_path: Path, prediction_type: str, clip_sample: bool, num_steps: int
) -> None:
    model = model_with(config, prediction_type=prediction_type, clip_sample=clip_sample, clip_sample_range=1.5)
    NoiseSchedule.of(model).save(tmp_path / "schedule.json")
    schedule = NoiseSchedule.load(tmp_path / "schedule.json")
    theirs = DDIMScheduler.from_config(model.image_decoder.noise_schedule.config, timestep_spacing="trailing")
    theirs.set_timesteps(num_steps)
    assert schedule.timesteps(num_steps) == theirs.timesteps.tolist()

    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 12, 4, 4, generator=generator)
    ours = latents.numpy()
    for timestep in theirs.timesteps:
        predicted = torch.randn(latents.shape, generator=generator)
        latents = theirs.step(predicted, timestep, latents).prev_sample
        ours = schedule.step(predicted.numpy(), int(timestep), ours, num_steps=num_steps)
        np.testing.assert_allclose(ours, latents.numpy(), rtol=1e-4, atol=1e-4 * float(latents.abs().max()))
    assert ours.dtype == np.float32


def test_thresholding_is_refused(config: MMInterleavedConfig) -> None:
    with pytest.raises(ValueError, match="thresholding=True"):
        NoiseSchedule.of(model_with(config, thresholding=True))
