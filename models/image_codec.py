"""Between pixels and what the U-Net diffuses: a VAE's latents, or the pixels themselves, folded.

Letters: B images, h x w pixels in [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn


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


class LatentCodec(nn.Module):
    """Scaled latents of a frozen `AutoencoderKL`, made of its arguments or loaded already."""

    def __init__(self, vae: dict[str, Any] | AutoencoderKL) -> None:
        super().__init__()
        self.vae = (AutoencoderKL(**vae) if isinstance(vae, dict) else vae).requires_grad_(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, c, h/f, w/f] of the pixels' dtype; `noise` of that shape samples the posterior,
        None takes its mode."""
        posterior = self.vae.encode((pixels * 2 - 1).to(self.vae.dtype)).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return (latents * self.vae.config.scaling_factor).to(pixels.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """[B, c, h/f, w/f] -> [B, 3, h, w] in [0, 1]."""
        unscaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return ((self.vae.decode(unscaled).sample + 1) / 2).clamp(0, 1)
