"""Images that a PyTorch model draws together.

Letters: M images, k predictions of each (1 to 3), c x h x w latents, N images of the bank, S pyramid pixels, H heads, D
channels a head.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.denoising import Denoiser, guide
from models.drawings import Drawings
from models.image_decoders.condition import Condition
from models.sampling_recorder import SamplingRecorder
from models.synchronized_unet import SynchronizedUNet


@dataclass
class DrawnTogether:
    """Images that began together: with the same options, and so at the same step."""

    denoiser: Denoiser
    """Of M images."""

    condition: Condition
    """Of k*M rows: as `guide` takes the predictions."""

    values: Sequence[Tensor]
    """Per synchronizer [N, S, H, D]."""

    visible: Tensor
    """[k*M, 2] int64, range of images of the bank that each row attends to."""

    def select(self, places: Sequence[int]) -> None:
        """Go on with these of the M images."""
        num_images = len(self.denoiser.latents)
        starts = range(0, len(self.visible), num_images)
        rows = [start + place for start in starts for place in places]
        self.denoiser.select(places)
        added = {name: tensor[rows] for name, tensor in self.condition.added.items()}
        self.condition, self.visible = Condition(self.condition.tokens[rows], added), self.visible[rows]


class TorchDrawings(Drawings):
    """As `Drawings`.

    Args:
        unet: that draws.
        parts: the images, in this order.
        recorder: of what the synchronizers ask of the op for each image. None: it is not recorded.
    """

    def __init__(
        self, unet: SynchronizedUNet, parts: Sequence[DrawnTogether], recorder: SamplingRecorder | None = None
    ) -> None:
        self.unet = unet
        self.parts = list(parts)
        self.recorder = recorder
        self._inputs: tuple[Condition, list[Tensor], Tensor] | None = None  # of all parts together

    @property
    def done(self) -> list[int]:
        return [part.denoiser.done for part in self.parts for _ in part.denoiser.latents]

    @property
    def num_steps(self) -> list[int]:
        return [part.denoiser.denoising.num_inference_steps for part in self.parts for _ in part.denoiser.latents]

    @property
    def latents(self) -> Tensor:
        return torch.cat([part.denoiser.latents for part in self.parts])

    @property
    def estimate(self) -> Tensor:
        return torch.cat([part.denoiser.estimate for part in self.parts])

    @torch.no_grad()
    def step(self) -> None:
        if not self.parts:
            return
        condition, values, visible = self._inputs = self._inputs or self._together()
        sizes: list[int] = []
        with_all: list[int] = []
        latents, timesteps = [], []
        for part in self.parts:
            end, of_part = sum(sizes) + len(part.visible), part.denoiser.latents
            sizes.append(len(part.visible))
            with_all += range(end - len(of_part), end)  # rows with all conditions
            latents.append(of_part.repeat(sizes[-1] // len(of_part), 1, 1, 1))
            timesteps.append(part.denoiser.timestep.expand(sizes[-1]))
        # Latents stay float32 in half precision too, because they are summed over many steps.
        noisy = torch.cat(latents).to(condition.tokens.dtype)
        recorder = None if self.recorder is None else self.recorder.begin(lambda rows: rows[with_all])
        predictions = self.unet(
            noisy,
            torch.cat(timesteps),
            condition.tokens,
            condition.added,
            values=values,
            visible=visible,
            recorder=recorder,
        )
        self.sampled = None if recorder is None else recorder.take()
        for part, predicted in zip(self.parts, predictions.split(sizes), strict=True):
            part.denoiser.advance(guide(predicted, part.denoiser.denoising))

    def _together(self) -> tuple[Condition, list[Tensor], Tensor]:
        """Condition, values and visible images of all rows."""
        if len(self.parts) == 1:
            part = self.parts[0]
            return part.condition, list(part.values), part.visible
        before, visible = 0, []
        for part in self.parts:
            visible.append(part.visible + before)
            before += len(part.values[0]) if part.values else 0
        values = [torch.cat(of_all) for of_all in zip(*[part.values for part in self.parts], strict=True)]
        return Condition.cat([part.condition for part in self.parts]), values, torch.cat(visible)

    def join(self, other: Drawings) -> None:
        assert isinstance(other, TorchDrawings), "both are of one model"
        self.parts += other.parts
        self.recorder = self.recorder or other.recorder
        self._inputs = None

    def leave(self, places: Collection[int]) -> None:
        kept, first = [], 0
        for part in self.parts:
            num_images = len(part.denoiser.latents)
            stay = [place for place in range(num_images) if first + place not in places]
            first += num_images
            if len(stay) < num_images:
                part.select(stay)
            if stay:
                kept.append(part)
        self.parts, self._inputs = kept, None
