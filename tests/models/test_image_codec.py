import torch

from models import MMInterleavedConfig
from models.image_codec import LatentCodec, PixelCodec


def test_folding_pixels_loses_nothing() -> None:
    pixels = torch.rand(2, 3, 8, 12)
    latents = PixelCodec(2).encode(pixels)
    assert latents.shape == (2, 12, 4, 6)
    assert latents.min() >= -1
    torch.testing.assert_close(PixelCodec(2).decode(latents), pixels)


def test_the_input_is_left_alone() -> None:
    pixels = torch.rand(1, 3, 32, 32)
    before = pixels.clone()
    PixelCodec(1).encode(pixels)
    LatentCodec(MMInterleavedConfig.tiny().image_decoder).encode(pixels)
    assert torch.equal(pixels, before)


def test_latents_are_scaled_sampled_by_their_noise_and_decoded_back() -> None:
    codec = LatentCodec(MMInterleavedConfig.tiny().image_decoder).eval()
    pixels = torch.rand(2, 3, 32, 32)
    mode = codec.encode(pixels)
    assert mode.shape == (2, 4, 16, 16)
    posterior = codec.vae.encode(pixels * 2 - 1).latent_dist
    torch.testing.assert_close(mode, posterior.mode() * 0.5)
    noise = torch.randn_like(mode)
    torch.testing.assert_close(codec.encode(pixels, noise) - mode, posterior.std * noise * 0.5)
    decoded = codec.decode(mode)
    expected = (codec.vae.decode(posterior.mode()).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded, expected)


def test_the_vae_is_frozen() -> None:
    assert not any(p.requires_grad for p in LatentCodec(MMInterleavedConfig.tiny().image_decoder).parameters())
