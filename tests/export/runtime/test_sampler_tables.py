import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from denoising_steps import denoise
from export.runtime.sampler_tables import NoiseSchedule, walk
from models import MMInterleaved, MMInterleavedConfig
from models.denoising import Step
from models.denoising_options import Denoising

SHAPE = (2, 12, 4, 4)


def model_with(config: MMInterleavedConfig, **scheduler: object) -> MMInterleaved:
    decoder = dataclasses.replace(config.image_decoder, scheduler=scheduler)
    return MMInterleaved(dataclasses.replace(config, image_decoder=decoder))


def theirs(model: MMInterleaved, denoising: Denoising, predictions: list[torch.Tensor]) -> Iterator[Step]:
    answers = iter(predictions)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    noise = torch.stack([torch.randn(SHAPE[1:], generator=generator) for generator in generators])
    return denoise(
        lambda _latents, _time: next(answers), noise, model.image_decoder.noise_schedule, denoising, generators
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "ddpm"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip_sample", [True, False])
@pytest.mark.parametrize("num_steps", [1, 7, 16])
def test_steps_are_those_of_diffusers(
    config: MMInterleavedConfig, tmp_path: Path, scheduler: str, prediction_type: str, clip_sample: bool, num_steps: int
) -> None:
    model = model_with(config, prediction_type=prediction_type, clip_sample=clip_sample, clip_sample_range=1.5)
    NoiseSchedule.of(model).save(tmp_path / "schedule.json")
    schedule = NoiseSchedule.load(tmp_path / "schedule.json")
    denoising = Denoising(num_inference_steps=num_steps, scheduler=scheduler)
    predictions = list(torch.randn(num_steps, *SHAPE, generator=torch.Generator().manual_seed(0)))

    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]

    def normal() -> torch.Tensor:
        return torch.stack([torch.randn(SHAPE[1:], generator=generator) for generator in generators])

    latents, before = normal(), torch.zeros(SHAPE)
    bound = torch.tensor(schedule.bound(scheduler))
    steps = zip(schedule.table(scheduler, num_steps), predictions, theirs(model, denoising, predictions), strict=True)
    for row, predicted, step in steps:
        noise = normal() if row[-1] else torch.zeros(SHAPE)
        latents, before, estimate = walk(row, bound, latents, predicted, before, noise)
        for ours, expected in ((latents, step.latents), (estimate, step.estimate)):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert latents.dtype == torch.float32


def test_the_noise_of_a_large_variance(config: MMInterleavedConfig) -> None:
    small, large = (
        NoiseSchedule.of(model_with(config, variance_type=kind)).table("ddpm", 1000)[:, -1]
        for kind in ("fixed_small", "fixed_large")
    )
    assert (large[:-1] > small[:-1]).all()
    assert large[-1] == small[-1] == 0


@pytest.mark.parametrize(
    ("scheduler", "message"), [({"thresholding": True}, "thresholding=True"), ({"variance_type": "learned"}, "learned")]
)
def test_what_no_table_says_is_refused(config: MMInterleavedConfig, scheduler: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.of(model_with(config, **scheduler))


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_so_many_steps_are_refused(config: MMInterleavedConfig, num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"{num_steps} steps to draw in. Expected 1 to 1000"):
        NoiseSchedule.of(model_with(config)).timesteps(num_steps)
