import dataclasses

import pytest
import torch

from models import MMInterleavedConfig
from models.denoising_options import Denoising
from models.image_decoders.condition import Condition
from models.image_decoders.image_decoder import ImageDecoder
from models.image_decoders.make import make_image_decoder

SHAPES = ((4, 4), (2, 2))
CONFIG = MMInterleavedConfig.tiny().image_decoder
PIXELS = dataclasses.replace(
    CONFIG, vae=None, pixel_fold=2, unet={**CONFIG.unet, "in_channels": 12, "out_channels": 12}
)


def build(config=CONFIG) -> ImageDecoder:
    decoder = make_image_decoder(config, context_dim=32, feature_dim=10, spatial_shapes=SHAPES).eval()
    for synchronizer in decoder.unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.3)
    return decoder


def context_of(decoder: ImageDecoder, images: int = 2) -> Condition:
    return decoder.condition(torch.randn(images, 5, 32), torch.ones(images, 5, dtype=torch.bool))


def seen(decoder: ImageDecoder) -> dict:
    features = torch.randn(3, 20, 10)
    return {"values": decoder.unet.project_values(features), "visible": torch.tensor([[0, 2], [2, 3]])}


@pytest.mark.parametrize("config", [CONFIG, PIXELS], ids=["vae", "pixels"])
def test_loss_of_an_image_depends_on_its_own_key_alone(config) -> None:
    decoder = build(config)
    context, look, pixels = context_of(decoder), seen(decoder), torch.rand(2, 3, 32, 32)
    both = decoder.loss(pixels, context, **look, keys=torch.tensor([7, 8]))
    assert both.shape == (2,)
    alone = decoder.loss(
        pixels[1:],
        Condition(context.tokens[1:]),
        values=look["values"],
        visible=look["visible"][1:],
        keys=torch.tensor([8]),
    )
    torch.testing.assert_close(alone[0], both[1], rtol=1e-4, atol=1e-5)
    other = decoder.loss(pixels, context, **look, keys=torch.tensor([7, 9]))
    torch.testing.assert_close(other[0], both[0], rtol=1e-4, atol=1e-5)
    assert (other[1] - both[1]).abs() > 1e-4


def test_the_target_is_noise_velocity_or_the_image() -> None:
    """A U-Net that answers 0 has the loss of its target."""
    keys = torch.arange(64)
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        config = dataclasses.replace(PIXELS, scheduler={**CONFIG.scheduler, "prediction_type": prediction_type})
        decoder = build(config)
        torch.nn.init.zeros_(decoder.unet.host.conv_out.weight)
        torch.nn.init.zeros_(decoder.unet.host.conv_out.bias)
        pixels = torch.ones(64, 3, 32, 32)  # latents of exactly 1: velocity^2 averages to 1 as well
        visible = torch.zeros(64, 2, dtype=torch.int64)
        values = decoder.unet.project_values(torch.zeros(0, 20, 10))
        loss = decoder.loss(pixels, context_of(decoder, 64), values=values, visible=visible, keys=keys)
        noise, _, timestep, _ = decoder._draw_noise(keys, pixels)
        clean = torch.ones_like(noise)
        velocity = decoder.noise_schedule.get_velocity(clean, noise, timestep)
        target = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[prediction_type]
        torch.testing.assert_close(loss, target.square().flatten(1).mean(1))


def test_text_is_dropped_about_as_often_as_configured() -> None:
    decoder = build(dataclasses.replace(PIXELS, text_drop=0.25))
    *_, dropped = decoder._draw_noise(torch.arange(800), torch.zeros(1))
    assert 150 < dropped.sum() < 250  # 200 expected, standard deviation 12
    always = build(dataclasses.replace(PIXELS, text_drop=1.0)).train()
    look, pixels, keys = seen(always), torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    losses = [always.loss(pixels, context_of(always), **look, keys=keys) for _ in range(2)]  # other contexts
    torch.testing.assert_close(*losses)


def test_the_noisiest_time_steps_come_as_often_as_configured() -> None:
    keys, pixels = torch.arange(800), torch.zeros(1)
    decoder = build(PIXELS)
    unbiased, num_steps = decoder._draw_noise(keys, pixels)[2], decoder.noise_schedule.config.num_train_timesteps
    assert 160 < (unbiased >= 0.75 * num_steps).sum() < 240  # 200 expected, standard deviation 12
    for multiplier, expected in ((3.0, 400), (1e-3, 0)):
        timestep = build(dataclasses.replace(PIXELS, timestep_bias_multiplier=multiplier))._draw_noise(keys, pixels)[2]
        assert abs(int((timestep >= 0.75 * num_steps).sum()) - expected) < 50  # standard deviation 14
        assert timestep.min() >= 0
        assert timestep.max() < num_steps
    always = dataclasses.replace(PIXELS, timestep_bias_multiplier=2.0, timestep_bias_portion=1.0)
    assert build(always)._draw_noise(keys, pixels)[2].min() < num_steps / 10


def test_tokens_that_do_not_exist_do_not_matter() -> None:
    decoder = build()
    context = torch.randn(1, 5, 32)
    exists = torch.tensor([[True, True, True, False, False]])
    other = context.clone()
    other[:, 3:] = 9.0
    torch.testing.assert_close(decoder.condition(context, exists).tokens, decoder.condition(other, exists).tokens)


def test_position_counts_from_the_image_back() -> None:
    decoder = build()
    near = torch.randn(1, 3, 32)
    flipped = decoder.condition(near.flip(1), torch.ones(1, 3, dtype=torch.bool)).tokens
    assert (decoder.condition(near, torch.ones(1, 3, dtype=torch.bool)).tokens - flipped).abs().max() > 1e-5


@pytest.mark.parametrize("config", [CONFIG, PIXELS], ids=["vae", "pixels"])
def test_sampling_is_a_function_of_the_seed(config) -> None:
    decoder = build(config)
    context, look = context_of(decoder), seen(decoder)
    three = Denoising(num_inference_steps=3)
    first = decoder.sample(context, **look, seeds=[1, 2], denoising=three)
    assert first.shape == (2, 3, 32, 32)
    assert first.min() >= 0
    assert first.max() <= 1
    again = decoder.sample(context, **look, seeds=[1, 2], denoising=three)
    torch.testing.assert_close(again, first, rtol=0, atol=0.1 / 255)  # nothing to be seen in 8 bits
    assert (decoder.sample(context, **look, seeds=[1, 3], denoising=three)[1] - first[1]).abs().max() > 1e-3


def test_guidance_of_one_is_the_conditional_model() -> None:
    decoder = build(PIXELS)
    context, look = context_of(decoder), seen(decoder)

    def drawn(guidance_scale: float) -> torch.Tensor:
        denoising = Denoising(num_inference_steps=2, guidance_scale=guidance_scale)
        return decoder.sample(context, **look, seeds=[1, 2], denoising=denoising)

    plain, nearly = drawn(1.0), drawn(1.0 + 1e-6)
    torch.testing.assert_close(nearly, plain, rtol=1e-3, atol=1e-4)
    assert (drawn(8.0) - plain).abs().max() > 1e-4


@pytest.mark.parametrize("beta", [1e39, float("nan"), -0.1, 2, "0.1"])
def test_a_noise_schedule_of_impossible_numbers_is_refused(beta: object) -> None:
    config = dataclasses.replace(PIXELS, scheduler={**CONFIG.scheduler, "beta_end": beta})
    with pytest.raises(ValueError, match=r"scheduler\.beta_end is .*; expected"):
        build(config)


def test_a_prediction_type_that_nobody_can_train_is_refused() -> None:
    config = dataclasses.replace(PIXELS, scheduler={**CONFIG.scheduler, "prediction_type": "score"})
    with pytest.raises(ValueError, match="prediction_type 'score'; expected one of epsilon, v_prediction, sample"):
        build(config)


def test_conditions_are_dropped_in_training_alone() -> None:
    decoder = build(dataclasses.replace(PIXELS, text_drop=1.0, image_drop=1.0))
    context, look, pixels = context_of(decoder), seen(decoder), torch.rand(2, 3, 32, 32)
    keys = torch.tensor([7, 8])
    other = {**look, "visible": torch.zeros_like(look["visible"])}
    evaluated = decoder.loss(pixels, context, **look, keys=keys)
    assert (decoder.loss(pixels, Condition(context.tokens + 1), **look, keys=keys) - evaluated).abs().min() > 1e-6
    assert (decoder.loss(pixels, context, **other, keys=keys) - evaluated).abs().min() > 1e-6
    decoder.train()
    trained = decoder.loss(pixels, context, **look, keys=keys)
    torch.testing.assert_close(decoder.loss(pixels, Condition(context.tokens + 1), **other, keys=keys), trained)


def test_guidance_by_images_leaves_alone_what_looks_at_none() -> None:
    decoder = build(PIXELS)
    context, look = context_of(decoder), seen(decoder)
    look["visible"] = torch.tensor([[0, 2], [2, 2]])

    def drawn(image_guidance_scale: float) -> torch.Tensor:
        denoising = Denoising(num_inference_steps=2, image_guidance_scale=image_guidance_scale)
        return decoder.sample(context, **look, seeds=[1, 2], denoising=denoising)

    plain, strong = drawn(1.0), drawn(4.0)
    assert (strong[0] - plain[0]).abs().max() > 1e-4
    torch.testing.assert_close(strong[1], plain[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("config", "channels"), [(CONFIG, 4), (PIXELS, 12)], ids=["vae", "pixels"])
def test_images_that_are_no_squares(config, channels) -> None:
    config = dataclasses.replace(config, image_size=(32, 48))
    decoder = build(config)
    assert decoder.latent_shape == (channels, 16, 24)
    context, look, keys = context_of(decoder), seen(decoder), torch.tensor([7, 8])
    pixels = torch.rand(2, 3, 32, 48)
    latents = decoder.codec.encode(pixels)
    assert latents.shape == (2, *decoder.latent_shape)
    assert decoder.decode(latents).shape == pixels.shape
    with torch.no_grad():
        losses = [decoder.loss(image, context, **look, keys=keys) for image in (pixels, pixels.flip(3))]
    assert (losses[0] - losses[1]).abs().min() > 1e-4
    drawn = [
        decoder.sample(
            context,
            values=look["values"],
            visible=visible,
            seeds=[1, 2],
            denoising=Denoising(num_inference_steps=2),
        )
        for visible in (look["visible"], torch.zeros(2, 2, dtype=torch.int64))
    ]
    assert drawn[0].shape == (2, 3, 32, 48)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4  # it looked at the images


def test_a_size_without_whole_latent_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size is \(32, 33\); expected multiples of 2, the pixels that one"):
        build(dataclasses.replace(CONFIG, image_size=(32, 33)))
