"""`vae_decoder`: latents to pixels.

Letters: B images, c x h x w latents, h' x w' pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from export.components.check_inputs import Case, CheckInputs
from export.components.component import FLOAT, Component, Port
from export.components.spec import ComponentSpec

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved


class VAEDecoder(nn.Module):
    """Latents to pixels: an AutoencoderKL's decoder, or the unfolding of the pixel codec."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.codec = model.image_decoder.codec

    def forward(self, latents: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, 3, h', w'] in [0, 1]."""
        return self.codec.decode(latents)


def vae_decoder(model: MMInterleaved) -> Component:
    """The component of a model."""
    decoder = model.image_decoder
    height, width = decoder.config.drawn_image_size
    return Component(
        SPEC.name,
        VAEDecoder(model),
        inputs={"latents": Port(FLOAT, ("batch", *decoder.latent_shape))},
        outputs={"image": Port(FLOAT, ("batch", 3, height, width))},
        float32_in_pytorch=frozenset({"latents"}),
    )


def _cases(_component: Component, given: CheckInputs) -> list[Case]:
    noisy, _ = given.noisy_latents
    return [Case("images", {"latents": given.latents}), Case("one noisy image", {"latents": noisy[:1]})]


SPEC = ComponentSpec(
    "vae_decoder",
    vae_decoder,
    _cases,
    float32_ports=frozenset({"latents", "image"}),
    takes_float16=False,
)
