"""Images of the world with everything that is known about them, to pre-train an image encoder on.

Letters: N images of h x w pixels, K sprites that occur.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from models.config import MMInterleavedConfig
from trainer.data.compact_batch import CompactImages
from trainer.data.config import DataConfig
from trainer.data.emoji.layouts import random_scene
from trainer.data.emoji.world import dense_labels, layout_labels, number_labels, render
from trainer.data.stable_key import stable_key
from trainer.data.stream import rendered_side


@dataclass(frozen=True)
class LabelledImages:
    """Images and what they show."""

    images: CompactImages

    classes: Tensor
    """[N, h, w] int16: 0 background, then the sprites, then the ten digits (`world.dense_labels`)."""

    numbers: Tensor
    """[N, h, w] int16: on a sprite the number printed under it, else -1."""

    present: Tensor
    """[N, K] bool: whether a sprite stands in the image."""

    centres: Tensor
    """[N, K, 2] float32: its centre (x, y) in [0, 1]."""

    @property
    def pixel_values(self) -> Tensor:
        """[N, 3, h, w] float32 in [0, 1]: the images, as the model reads them."""
        return self.images.to_float()

    def to(self, device: torch.device, *, non_blocking: bool = False) -> LabelledImages:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        return LabelledImages(**moved)

    def pin_memory(self) -> LabelledImages:
        """The same in page-locked memory (the hook that a DataLoader calls)."""
        return LabelledImages(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


class LabelledScenes:
    """Step number and neighbouring numbers of images to these labelled images; a pure function of (settings, seed,
    step)."""

    def __init__(self, config: DataConfig, model: MMInterleavedConfig, *, seed: int) -> None:
        self.config = config
        self.image_side = model.image_size[0]
        self.seed = seed

    def __call__(self, step: int, images: range) -> LabelledImages:
        """The images of a step; labels have the images' size."""
        side = rendered_side(self.image_side)
        stride = side // self.image_side
        num_concepts = self.config.num_concepts
        scenes = [
            random_scene(
                self.seed,
                stable_key(step, image),
                num_concepts=num_concepts,
                max_sprites=self.config.num_sprites,
            )
            for image in images
        ]
        rendered = [render(scene, side) for scene in scenes]
        classes = np.stack([dense_labels(scene, num_concepts, side) for scene in scenes])
        numbers = np.stack([number_labels(scene, side) for scene in scenes])
        middle = slice(stride // 2, None, stride)
        present, centres = zip(*(layout_labels(scene, num_concepts) for scene in scenes), strict=True)
        return LabelledImages(
            images=CompactImages.of(rendered, self.image_side),
            classes=torch.from_numpy(classes[:, middle, middle].astype(np.int16)),
            numbers=torch.from_numpy(numbers[:, middle, middle].astype(np.int16)),
            present=torch.from_numpy(np.stack(present)),
            centres=torch.from_numpy(np.stack(centres)),
        )
