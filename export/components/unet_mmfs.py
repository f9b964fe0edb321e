"""`unet_mmfs`: one denoising step.

`model_output` is what the diffusion schedule calls the prediction: noise, or velocity.

Letters: B images being drawn, N images of the bank, S pixels of all levels, H heads, D channels of a head, n context
tokens, c x h x w latents.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from export.components.check_inputs import Case, CheckInputs
from export.components.component import FLOAT, INT, Component, Port
from export.components.context_resampler import condition_ports
from export.components.mmfs_values import unet_values
from export.components.profiles import Limits, Profile, ranges_of, usual_ranges
from export.components.spec import ComponentSpec
from models.sampling_recorder import SamplingRecorder

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved


class UNet(nn.Module):
    """One denoising step."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.unet = model.image_decoder.unet
        self.added = [name for name in model.image_decoder.condition_shapes if name != "encoder_hidden_states"]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        *others: Tensor,
        recorder: SamplingRecorder | None = None,
    ) -> Tensor:
        """The prediction for each noisy image, [B, c, h, w].

        Args:
            sample: [B, c, h, w] noisy latents.
            timestep: [B] float32, diffusion time.
            encoder_hidden_states: [B, n, cross_attention_dim] context tokens.
            others: what the U-Net takes beside the tokens, each with B rows; then, of a model with synchronizers,
                `visible` [B, 2] int64, range of images of the bank that a drawn image sees, and unet_mmfs_value_0, ...
                [N, S, H, D].
            recorder: gets what each synchronizer asks of the op. None: nobody.
        """
        added = dict(zip(self.added, others, strict=False))
        visible, *values = others[len(added) :] or (timestep,)  # without synchronizers `visible` is not read
        return self.unet(
            sample, timestep, encoder_hidden_states, added, values=values, visible=visible, recorder=recorder
        )


def unet_mmfs(model: MMInterleaved) -> Component:
    """The component of a model."""
    decoder = model.image_decoder
    values = unet_values(model)
    latents = ("batch", *decoder.latent_shape)
    return Component(
        SPEC.name,
        UNet(model),
        inputs={
            "sample": Port(FLOAT, latents),
            "timestep": Port(FLOAT, ("batch",)),
            **condition_ports(model, "batch"),
            **({"visible": Port(INT, ("batch", 2))} if values else {}),
            **values,
        },
        outputs={"model_output": Port(FLOAT, latents)},
        num_synchronizers=len(decoder.unet.synchronizers),
        float32_in_pytorch=frozenset({"timestep", "time_ids"}),
    )


def _profiles(axes: Collection[str], limits: Limits) -> list[Profile]:
    """Of exactly the largest size, or of any up to it."""
    rows = 2 * limits.max_batch  # both halves of classifier-free guidance
    ranges = usual_ranges(limits) | {"batch": (1, rows, rows)}
    if not limits.dynamic_unet:
        ranges |= {"batch": (rows, rows, rows), "images": (limits.max_images,) * 3}
    return [Profile("all", ranges_of(axes, ranges))]


def _cases(component: Component, given: CheckInputs) -> list[Case]:
    """A guided step, one image that sees every image, and one in a document without images."""
    batch, rows, values = given.batch, given.num_documents, given.outputs_of("mmfs_values_unet")
    noisy, timesteps = given.noisy_latents
    both_halves = given.outputs_of("context_resampler")
    row_of_image = batch.image_positions[:, 0].contiguous()
    first = torch.searchsorted(row_of_image, torch.arange(rows))
    last = torch.searchsorted(row_of_image, torch.arange(rows), right=True)
    before = torch.stack([first, torch.maximum(first, last - 1)], dim=1)  # a document's last image is being drawn

    def inputs(which: slice, visible: Tensor, bank: dict[str, Tensor]) -> dict[str, Tensor]:
        condition = {name: rows[which] for name, rows in both_halves.items()}
        num = len(visible)
        chosen = {
            "sample": noisy.repeat(2, 1, 1, 1)[:num],
            "timestep": timesteps.repeat(2)[:num],
            **condition,
            "visible": visible,
            **bank,
        }
        return {name: chosen[name] for name in component.inputs}

    everything = torch.tensor([[0, len(batch.pixel_values)]])
    no_image = {name: tensor[:0] for name, tensor in values.items()}
    return [
        Case("both halves of a guided step", inputs(slice(None), before.repeat(2, 1), values)),
        Case("one image that sees all images", inputs(slice(rows, rows + 1), everything, values)),
        Case("one image without images", inputs(slice(1), torch.zeros(1, 2, dtype=torch.int64), no_image)),
    ]


SPEC = ComponentSpec(
    "unet_mmfs",
    unet_mmfs,
    _cases,
    profiles=_profiles,
    float32_ports=frozenset({"sample", "timestep", "time_ids", "model_output"}),
)
