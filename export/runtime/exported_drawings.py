"""Images that exported components draw together.

Letters: M images, k predictions of each image (1 to 3), c x h x w latents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from export.components.sampled import arguments_of
from export.runtime.drawing import Drawing, DrawnImage
from export.runtime.memory import Memory
from models.denoising_options import Denoising
from models.drawings import Drawings
from models.generation.state import drawn_from


class ExportedDrawings(Drawings):
    """As `Drawings`.

    Args:
        memory: with the images that these are drawn from.
        images: in this order.
        records: whether to tell where MMFS samples (`sampled`); the components can.
    """

    def __init__(self, memory: Memory, images: Sequence[DrawnImage], *, records: bool = False) -> None:
        self.memory = memory
        self.records = records
        self.images = list(images)
        self._is_own = False  # whether no state reads into the memory
        self._drawing: Drawing | None = None  # which may hold the images

    @property
    def done(self) -> list[int]:
        return [image.done for image in self.images]

    @property
    def num_steps(self) -> list[int]:
        return [image.denoising.num_inference_steps for image in self.images]

    @property
    def latents(self) -> Tensor:
        if (drawing := self._holding) is not None:
            return drawing.latents.clone()
        return torch.stack([image.latents for image in self.images])

    @property
    def estimate(self) -> Tensor:
        if (drawing := self._holding) is not None:
            return drawing.estimate.clone()
        return torch.stack([image.estimate for image in self.images])

    @torch.no_grad()
    def step(self) -> None:
        if not self.images:
            return
        self._drawing = drawing = self._holding or self._loaded()
        for place, image in enumerate(self.images):
            if self.memory.assets.schedule.adds_noise(image.denoising, image.done):
                drawing.noise[place] = normal(drawing.noise[place].shape, image.generator)
            image.done += 1
        drawing()
        if self.records:
            last = drawing.predictions_of[:, -1]  # with all conditions
            mmfs = self.memory.assets.config.image_decoder.mmfs
            self.sampled = arguments_of(
                drawing.asked,
                self.memory.assets.sampling,
                "unet_mmfs",
                drawing.visible[last].unsqueeze(1),
                mmfs,
                lambda queries: queries[last],  # a copy
            )

    def _loaded(self) -> Drawing:
        config, pool = self.memory.assets.config, self.memory.drawn_from
        visible = [drawn_from(config, pool.range_of(image.owner)) for image in self.images]
        num_predictions = sum(image.denoising.num_predictions for image in self.images)
        drawing = self.memory.drawing(len(self.images), num_predictions)
        drawing.load(self.images, visible)
        return drawing

    @property
    def _holding(self) -> Drawing | None:
        """What holds the images; none does if others of the same memory were drawn since."""
        return self._drawing if self._drawing is not None and self._drawing.holds is self.images else None

    def _unload(self) -> None:
        if (drawing := self._holding) is not None:
            drawing.save()

    def can_join(self, other: Drawings) -> bool:
        assert isinstance(other, ExportedDrawings), "both are of one model"
        return self.memory.drawn_from.can_join(other.memory.drawn_from)

    def join(self, other: Drawings) -> None:
        assert isinstance(other, ExportedDrawings), "both are of one model"
        self._unload()
        other._unload()
        self.records = self.records or other.records
        if not self._is_own:  # a state's memory is for its own documents
            self.memory, self._is_own = self.memory.with_copies({image.owner for image in self.images}), True
        shift = 1 + max((image.owner for image in self.images), default=-1)
        self.memory.drawn_from.join(other.memory.drawn_from.of({image.owner for image in other.images}), shift)
        for image in other.images:
            image.owner += shift
        self.images += other.images

    def leave(self, places: Collection[int]) -> None:
        self._unload()
        self.images = [image for place, image in enumerate(self.images) if place not in places]
        if self._is_own:
            self.memory.drawn_from.keep({image.owner for image in self.images})


def before_the_first_step(
    owners: Sequence[int],
    negative: Mapping[str, Tensor],
    conditional: Mapping[str, Tensor],
    seeds: Sequence[int],
    denoising: Denoising,
    latent_shape: Sequence[int],
) -> list[DrawnImage]:
    """Images that nothing has been drawn of.

    Args:
        owners: their documents.
        negative: the condition "no text" by the U-Net's inputs, [M, ...] each.
        conditional: the same of what to draw.
        seeds: one for each.
        denoising: how.
        latent_shape: (c, h, w).
    """
    without, images = denoising.num_predictions - 1, []
    for place, (owner, seed) in enumerate(zip(owners, seeds, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        nothing = torch.zeros(tuple(latent_shape))
        condition = {
            name: torch.stack([*[negative[name][place]] * without, rows[place]]) for name, rows in conditional.items()
        }
        noise = normal(latent_shape, generator)
        images.append(DrawnImage(owner, condition, denoising, generator, noise, nothing, nothing))
    return images


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Noise by PyTorch on the CPU, so that equal seeds draw the same image everywhere."""
    return torch.randn(tuple(shape), generator=generator)
