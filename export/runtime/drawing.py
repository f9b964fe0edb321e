"""Images from noise: the step of the denoising loop around the U-Net, which is recorded on a GPU.

Letters: M images, k predictions of each image (1 to 3), R predictions of all images, c x h x w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.components.sampled import of_sampling
from export.runtime.recorded import Recorded
from export.runtime.runner import ComponentRunner, Tensors
from export.runtime.sampler_tables import NoiseSchedule, walk
from export.runtime.value_pool import ValuePool
from models.denoising_options import Denoising


@dataclass
class DrawnImage:
    """An image between two steps."""

    owner: int
    """The document in the pool that it belongs to."""

    condition: Tensors
    """By the U-Net's inputs, [k, ...] each: without text, if that is predicted, and with it."""

    denoising: Denoising
    generator: torch.Generator
    """Of its noise."""

    latents: Tensor
    """[c, h, w] float32."""

    before: Tensor
    """[c, h, w], the bounded estimate of the step before (`walk`)."""

    estimate: Tensor
    """[c, h, w], see `Step`."""

    done: int = 0
    """Steps so far."""

    @property
    def weights(self) -> list[float]:
        """Of the k predictions in their guided sum; as `models.denoising.guide`."""
        text, image = self.denoising.guidance_scale, self.denoising.image_guidance_scale
        return [1 - image, image - text, text][-self.denoising.num_predictions :] if self.denoising.is_guided else [1.0]


class Drawing:
    """A step of M images with R predictions in all, each image at a place of its own in a table of its own.

    Args:
        unet: the U-Net.
        pool: the images that it looks at; every prediction of every image, by slot.
        schedule: the model's.
        num_images: M.
        num_predictions: R.
    """

    def __init__(
        self, unet: ComponentRunner, pool: ValuePool, schedule: NoiseSchedule, num_images: int, num_predictions: int
    ) -> None:
        self.unet, self.pool, self.schedule = unet.for_recording(), pool, schedule
        device = unet.device
        shape = num_images, *map(int, unet.inputs["sample"].shape[1:])
        self.latents, self.before, self.estimate, self.noise = torch.zeros(4, *shape, device=device).unbind()
        others = {"sample", "timestep", "visible", *pool.banks}
        self.condition = {
            name: torch.zeros(num_predictions, *map(int, port.shape[1:]), dtype=port.dtype, device=device)
            for name, port in unet.inputs.items()
            if name not in others
        }

        def numbers(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=torch.int64, device=device)

        self.visible = numbers(num_predictions, 2)
        self.image_of = numbers(num_predictions)  # of each prediction
        # The predictions of each image; where it has fewer than 3, its last one once more, with weight 0.
        self.predictions_of, self.weights = numbers(num_images, 3), torch.zeros(num_images, 3, 1, 1, 1, device=device)
        num_columns = schedule.table("ddim", 1).shape[1]
        self.tables = torch.zeros(num_images, schedule.num_train_timesteps, num_columns, device=device)
        self.bounds = torch.zeros(num_images, 1, 1, 1, device=device)
        self.places = numbers(num_images)  # of the next step in each table
        self._images = torch.arange(num_images, device=device)
        self.holds: list[DrawnImage] = []
        """The images that were loaded last."""

        self.step = Recorded(self._one_step, [self.latents, self.before, self.estimate, self.places], device)
        self._num_moves = pool.num_moves
        self.asked: Tensors = {}
        """What MMFS asked of the op in the last step, if the U-Net says so, by output, with R rows; on a GPU, the next
        step's is written over it."""

    def load(self, images: list[DrawnImage], visible: Sequence[tuple[int, int]]) -> None:
        """Go on with these images; those that were here are saved.

        Args:
            images: M of them, with R predictions.
            visible: for each, the slots that it attends to, first and one past last.
        """
        self.save()
        self.holds = images
        first = 0
        for place, (image, slots) in enumerate(zip(images, visible, strict=True)):
            num = image.denoising.num_predictions
            here = slice(first, first + num)
            for name, rows in self.condition.items():
                rows[here] = image.condition[name]
            # Without images, where that is predicted; then without text; then with both.
            self.visible[here] = torch.tensor([(0, 0), slots, slots][-num:], device=self.visible.device)
            self.image_of[here] = place
            last = first + num - 1
            self.predictions_of[place] = torch.tensor([min(first + one, last) for one in range(3)])
            self.weights[place] = torch.tensor([*image.weights, 0, 0][:3]).view(3, 1, 1, 1)
            table = self.schedule.table(image.denoising.scheduler, image.denoising.num_inference_steps)
            self.tables[place, : len(table)] = table.to(self.tables.device)
            self.bounds[place] = self.schedule.bound(image.denoising.scheduler)
            self.places[place] = image.done
            self.latents[place], self.before[place], self.estimate[place] = image.latents, image.before, image.estimate
            first += num
        self.noise.zero_()

    def save(self) -> None:
        """Give the images that were loaded what their steps have made, and hold none."""
        for place, image in enumerate(self.holds):
            image.latents, image.before = self.latents[place].clone(), self.before[place].clone()
            image.estimate = self.estimate[place].clone()
        self.holds = []

    def __call__(self) -> None:
        """Take a step; `noise` is that of the images whose scheduler adds some."""
        if self._num_moves != self.pool.num_moves:
            self.step.forget()
            self._num_moves = self.pool.num_moves
        self.step()

    def _one_step(self) -> None:
        rows = self.tables[self._images, self.places]  # [M, fields of StepRow]
        found = self.unet(
            sample=self.latents.index_select(0, self.image_of),
            timestep=rows[:, 0].index_select(0, self.image_of),
            visible=self.visible,
            **self.condition,
            **self.pool.banks,
        )
        self.asked, predictions = of_sampling(found), found["model_output"]
        output = (predictions.float()[self.predictions_of] * self.weights).sum(1)
        latents, before, estimate = walk(rows, self.bounds, self.latents, output, self.before, self.noise)
        self.latents.copy_(latents)
        self.before.copy_(before)
        self.estimate.copy_(estimate)
        self.places += 1
