"""Images from noise: the denoising loop around the U-Net, one step of which is recorded on a GPU.

Letters: M images, k predictions of each image (1 to 3), c x h x w latents, n context tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from export.runtime.recorded import Recorded
from export.runtime.runner import ComponentRunner
from export.runtime.sampler_tables import NoiseSchedule, walk
from export.runtime.value_pool import ValuePool
from models.denoising import Step, guide
from models.denoising_options import Denoising


class Drawing:
    """M images at a time, with one kind of guidance.

    Args:
        unet: the U-Net.
        pool: the images that it looks at; every prediction of every image, by slot.
        schedule: the model's.
        num_images: M.
        denoising: its guidance is used; scheduler and number of steps may differ in every drawing.
    """

    def __init__(
        self, unet: ComponentRunner, pool: ValuePool, schedule: NoiseSchedule, num_images: int, denoising: Denoising
    ) -> None:
        self.unet, self.pool, self.schedule, self.denoising = unet.for_recording(), pool, schedule, denoising
        self.num_predictions = 3 if denoising.uses_image_guidance else 2 if denoising.is_guided else 1
        device = unet.device
        latents = num_images, *unet.inputs["sample"].shape[1:]
        rows = self.num_predictions * num_images
        self.shape: tuple[int, ...] = tuple(int(size) for size in latents)
        self.latents, self.before, self.estimate, self.noise = torch.zeros(4, *self.shape, device=device).unbind()
        others = {"sample", "timestep", "visible", *pool.banks}
        self.condition = {
            name: torch.zeros(rows, *map(int, port.shape[1:]), dtype=port.dtype, device=device)
            for name, port in unet.inputs.items()
            if name not in others
        }
        self.visible = torch.zeros(rows, 2, dtype=torch.int64, device=device)
        num_columns = schedule.table("ddim", 1).shape[1]
        self.table = torch.zeros(schedule.num_train_timesteps, num_columns, device=device)
        self.bound = torch.zeros((), device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)  # of the next step in the table
        self.step = Recorded(self._one_step, [self.latents, self.before, self.estimate, self.place], device)
        self._num_moves = pool.num_moves

    def steps(
        self,
        conditional: Mapping[str, Tensor],
        negative: Mapping[str, Tensor],
        visible: Tensor,
        seeds: Sequence[int],
        denoising: Denoising,
    ) -> Iterator[Step]:
        """Draw, step by step.

        Args:
            conditional: what to draw, by the names of the U-Net's inputs: encoder_hidden_states [M, n,
                cross_attention_dim], and the other inputs of its condition.
            negative: the same for the condition "no text".
            visible: [M, 2] int64, slots.
            seeds: M numbers; each alone determines all that is random about its image.
            denoising: scheduler and number of steps; the guidance is that of this object.
        """
        without = self.num_predictions - 1
        for name, rows in self.condition.items():
            rows.copy_(torch.cat([*[negative[name]] * without, conditional[name]]))
        nothing = torch.zeros_like(visible)
        self.visible.copy_(torch.cat([nothing, visible, visible][-self.num_predictions :]))
        table = self.schedule.table(denoising.scheduler, denoising.num_inference_steps)
        self.table[: len(table)] = table.to(self.table.device)
        self.bound.fill_(self.schedule.bound(denoising.scheduler))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.latents.copy_(self._normal(generators))
        self.before.zero_()
        self.noise.zero_()
        self.place.zero_()
        if self._num_moves != self.pool.num_moves:
            self.step.forget()
            self._num_moves = self.pool.num_moves
        for done, row in enumerate(table, start=1):
            if row[-1]:
                self.noise.copy_(self._normal(generators))
            self.step()
            yield Step(done, self.latents.clone(), self.estimate.clone())

    def _normal(self, generators: Sequence[torch.Generator]) -> Tensor:
        # PyTorch's, on the CPU, so that equal seeds draw the same image everywhere.
        return torch.stack([torch.randn(self.shape[1:], generator=generator) for generator in generators])

    def _one_step(self) -> None:
        row = self.table.index_select(0, self.place)[0]
        predictions = self.unet(
            sample=self.latents.repeat(self.num_predictions, 1, 1, 1),
            timestep=row[0].expand(len(self.visible)),
            visible=self.visible,
            **self.condition,
            **self.pool.banks,
        )["model_output"]
        output = guide(predictions.float(), self.denoising)
        latents, before, estimate = walk(row, self.bound, self.latents, output, self.before, self.noise)
        self.latents.copy_(latents)
        self.before.copy_(before)
        self.estimate.copy_(estimate)
        self.place += 1
