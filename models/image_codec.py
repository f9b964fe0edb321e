"""Between pixels and what the U-Net diffuses: a VAE's latents, or the pixels themselves, folded.

Letters: B images, h x w pixels in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from models.component_configs import ImageDecoderConfig


class PixelCodec(nn.Module):
    """Pixels in [-1, 1], with `fold` x `fold` squares moved to channels: exact, invertible, without parameters."""

    def __init__(self, fold: int) -> None:
        super().__init__()
        self.fold = fold

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3 fold^2, h/fold, w/fold]. There is nothing to sample; `noise` is ignored."""
        return F.pixel_unshuffle(pixels * 2 - 1, self.fold)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, clipped to [0, 1]."""
        return ((F.pixel_shuffle(latents, self.fold) + 1) / 2).clamp(0, 1)


def vae_dtype(config: ImageDecoderConfig, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the VAE in a model of `dtype`: float32 in place of float16 for SDXL's, whose activations overflow
    float16, unless its arguments say otherwise (`force_upcast`, as SDXL's own pipeline reads it)."""
    overflows = config.unet.get("addition_embed_type") == "text_time" and (config.vae or {}).get("force_upcast", True)
    return torch.float32 if dtype == torch.float16 and overflows else dtype


class LatentCodec(nn.Module):
    """Scaled latents of a frozen `AutoencoderKL`.

    Args:
        config: of the image decoder, with the VAE's arguments.
        vae: made of them already. None: a new one.
    """

    def __init__(self, config: ImageDecoderConfig, vae: AutoencoderKL | None = None) -> None:
        super().__init__()
        self.config = config
        self.vae = (AutoencoderKL(**(config.vae or {})) if vae is None else vae).requires_grad_(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, c, h/f, w/f] of the pixels' dtype; `noise` of that shape samples the posterior,
        None takes its mode.

        Raises:
            ValueError: the VAE was converted to float16, which its activations overflow.
        """
        self._check_dtype()
        posterior = self.vae.encode((pixels * 2 - 1).to(self.vae.dtype)).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return (latents * self.vae.config.scaling_factor).to(pixels.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """[B, c, h/f, w/f] -> [B, 3, h, w] in [0, 1]. Raises ValueError as `encode`."""
        self._check_dtype()
        unscaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return ((self.vae.decode(unscaled).sample + 1) / 2).clamp(0, 1)

    def _check_dtype(self) -> None:
        if vae_dtype(self.config, self.vae.dtype) != self.vae.dtype:
            raise ValueError(
                "SDXL's VAE was converted to float16, which its activations overflow (force_upcast). Load the model "
                "with dtype=torch.float16, which leaves the VAE in float32, or convert it back: "
                "model.image_decoder.codec.vae.float()."
            )
