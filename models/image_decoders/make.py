"""Which image decoder a configuration asks for."""

from __future__ import annotations

from typing import Any

from models.component_configs import ImageDecoderConfig
from models.image_decoders.image_decoder import ImageDecoder
from models.image_decoders.stable_diffusion import StableDiffusion
from models.image_decoders.stable_diffusion_xl import StableDiffusionXL


def make_image_decoder(config: ImageDecoderConfig, **options: Any) -> ImageDecoder:
    """The image decoder that fits the U-Net's own arguments.

    Args:
        config: sizes and choices.
        options: the other arguments of `ImageDecoder`.

    Raises:
        ValueError: no decoder makes the conditions that this U-Net takes, or as for `ImageDecoder`.
    """
    added = config.unet.get("addition_embed_type")
    if added is None:
        return StableDiffusion(config, **options)
    if added == "text_time":
        return StableDiffusionXL(config, **options)
    raise ValueError(
        f"The U-Net has addition_embed_type {added!r}; expected none (Stable Diffusion 1.x and 2.x) or 'text_time' "
        "(Stable Diffusion XL)."
    )
