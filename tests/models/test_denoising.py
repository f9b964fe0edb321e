import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from denoising_steps import denoise
from models.denoising import estimate_clean, guide
from models.denoising_options import Denoising

TRUTH = torch.linspace(-0.9, 0.9, 2 * 3 * 4 * 4).view(2, 3, 4, 4)


def schedule(prediction_type: str) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False, prediction_type=prediction_type)


def ideal(noise_schedule: DDPMScheduler, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """What a U-Net that knows the truth says."""
    kept = noise_schedule.alphas_cumprod[timestep]
    noise = (latents - kept.sqrt() * TRUTH) / (1 - kept).sqrt()
    kind = noise_schedule.config.prediction_type
    if kind == "v_prediction":
        return kept.sqrt() * noise - (1 - kept).sqrt() * TRUTH
    return noise if kind == "epsilon" else TRUTH


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "ddpm"])
def test_every_scheduler_arrives_where_the_model_points(scheduler, prediction_type) -> None:
    noise_schedule = schedule(prediction_type)
    noise = torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    steps = list(
        denoise(
            lambda latents, timestep: ideal(noise_schedule, latents, timestep),
            noise,
            noise_schedule,
            Denoising(num_inference_steps=5, scheduler=scheduler),
            generators,
        )
    )
    assert [step.done for step in steps] == [1, 2, 3, 4, 5]
    torch.testing.assert_close(steps[-1].latents, TRUTH, rtol=0, atol=0.02)
    for step in steps:
        torch.testing.assert_close(step.estimate, TRUTH, rtol=0, atol=2e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
@pytest.mark.parametrize("num_steps", [7, 24, 30, 300, 600])
@pytest.mark.parametrize("scheduler", ["ddim", "dpm"])
def test_latents_have_the_noise_that_the_model_is_told_of(scheduler, num_steps) -> None:
    """Also where the number of steps does not divide that of training: 24 of 1,000."""
    noise_schedule = schedule("epsilon")
    told = []

    def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        noise = ideal(noise_schedule, latents, timestep)
        told.append(float(noise.std()))
        return noise

    noise = torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(0))
    denoising = Denoising(num_inference_steps=num_steps, scheduler=scheduler)
    *_, last = denoise(predict, noise, noise_schedule, denoising, [torch.Generator(), torch.Generator()])
    assert told == pytest.approx([told[0]] * num_steps, rel=0.02)
    torch.testing.assert_close(last.latents, TRUTH, rtol=0, atol=2e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip_sample", [True, False])
def test_ddim_is_that_of_diffusers_where_its_steps_divide_the_training(prediction_type, clip_sample) -> None:
    noise_schedule = DDPMScheduler(clip_sample=clip_sample, clip_sample_range=0.7, prediction_type=prediction_type)
    theirs = DDIMScheduler.from_config(noise_schedule.config, timestep_spacing="trailing")
    theirs.set_timesteps(8)
    latents = expected = torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(0))
    steps = denoise(lambda x, _: 0.3 * x, latents, noise_schedule, Denoising(num_inference_steps=8), [])
    for step, timestep in zip(steps, theirs.timesteps, strict=True):
        expected = theirs.step(0.3 * expected, timestep, expected).prev_sample
        torch.testing.assert_close(step.latents, expected, rtol=1e-4, atol=1e-4)


def test_dynamic_thresholds_are_refused() -> None:
    noise_schedule = DDPMScheduler(thresholding=True)
    with pytest.raises(ValueError, match='thresholding=True, which "ddim" does not do'):
        list(denoise(lambda x, _: x, TRUTH, noise_schedule, Denoising(num_inference_steps=2), []))


def test_noise_of_an_image_is_its_own() -> None:
    """The ancestral scheduler adds noise; an image's depends on its own die alone."""
    noise_schedule = schedule("epsilon")
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def drawn(latents: torch.Tensor, *seeds: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        denoising = Denoising(num_inference_steps=3, scheduler="ddpm")
        *_, last = denoise(lambda latents, _: 0.1 * latents, latents, noise_schedule, denoising, generators)
        return last.latents

    both = drawn(noise, 1, 2)
    torch.testing.assert_close(drawn(noise[1:], 2), both[1:])
    assert (drawn(noise[1:], 3) - both[1:]).abs().max() > 0.1


def test_the_estimate_is_diffusers_own() -> None:
    noise_schedule = schedule("v_prediction")
    predicted, latents, timestep = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor(400)
    theirs = noise_schedule.step(predicted, timestep, latents).pred_original_sample
    torch.testing.assert_close(estimate_clean(predicted, latents, noise_schedule, timestep), theirs)


def test_guidance_moves_along_the_differences() -> None:
    blind, plain, conditional = (torch.full((1, 1, 1, 1), value) for value in (1.0, 3.0, 4.0))
    assert guide(conditional, Denoising(guidance_scale=1)).item() == 4
    assert guide(torch.cat([plain, conditional]), Denoising(guidance_scale=2)).item() == 3 + 2 * 1
    three = torch.cat([blind, plain, conditional])
    # InstructPix2Pix: blind + image scale * (plain - blind) + text scale * (conditional - plain)
    assert guide(three, Denoising(guidance_scale=5, image_guidance_scale=3)).item() == 1 + 3 * 2 + 5 * 1
    assert guide(three, Denoising(guidance_scale=1, image_guidance_scale=0)).item() == 1 + 0 * 2 + 1 * 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scheduler": "euler"}, "scheduler is 'euler'; expected one of ddim, dpm, ddpm"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_drawn_with_is_refused(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        Denoising(**wrong)
