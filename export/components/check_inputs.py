"""The inputs that components are checked with: tensors of the PyTorch model while it reads documents.

Letters: B documents, T tokens of the longest, N images in all of them, c x h x w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from export.components.component import Component
from models.batch import IGNORED, Batch

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved


Document = Sequence[str | Image.Image]
"""Texts and images in reading order."""


@dataclass(frozen=True)
class Case:
    """One set of inputs of a component."""

    name: str
    inputs: dict[str, Tensor]


class CheckInputs:
    """Documents on their way through a model's components: the inputs of each are outputs of those before it.

    Args:
        model: with a processor.
        documents: at least one image among them.
        components: all of the model, each with the function that makes its cases.
    """

    def __init__(
        self,
        model: MMInterleaved,
        documents: Sequence[Document],
        components: Mapping[str, tuple[Component, CasesOf]],
    ) -> None:
        self.model = model
        self.batch = pack(model, documents)
        self.num_documents = len(documents)
        self._components = components
        self._cases: dict[str, list[Case]] = {}
        self._outputs: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def cases_of(self, name: str) -> list[Case]:
        """Cases of a component, at lengths other than those it was traced with; the first is the whole of the
        documents."""
        if name not in self._cases:
            component, cases = self._components[name]
            self._cases[name] = cases(component, self)
        return self._cases[name]

    def outputs_of(self, name: str) -> dict[str, Tensor]:
        """What PyTorch computes of a component's first case; empty if the model has no such component."""
        if name not in self._components:
            return {}
        if name not in self._outputs:
            self._outputs[name] = self._components[name][0].run(self.cases_of(name)[0].inputs)
        return self._outputs[name]

    @cached_property
    def latents(self) -> Tensor:
        """[N, c, h, w], of all images."""
        decoder = self.model.image_decoder
        pixels = F.interpolate(
            self.batch.pixel_values, size=decoder.config.drawn_image_size, mode="bilinear", antialias=True
        )
        return decoder.codec.encode(pixels)

    @cached_property
    def noisy_latents(self) -> tuple[Tensor, Tensor]:
        """Latents of one image per document, with as much noise as at a time step between start and end:
        [B, c, h, w], and their time steps, [B] float32."""
        decoder, rows = self.model.image_decoder, self.num_documents
        chosen = self.latents[torch.arange(rows) % len(self.latents)]
        num_steps = decoder.noise_schedule.config.num_train_timesteps
        timesteps = torch.linspace(0, num_steps - 1, rows + 2)[1:-1].round().long()
        noise = torch.randn(chosen.shape, generator=torch.Generator().manual_seed(0))
        return decoder.noise_schedule.add_noise(chosen, noise, timesteps), timesteps.float()


CasesOf = Callable[[Component, CheckInputs], list[Case]]
"""Makes the cases of a component."""


def first_row(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same inputs, of the first row alone."""
    return {name: tensor[:1] for name, tensor in inputs.items()}


def pack(model: MMInterleaved, documents: Sequence[Document]) -> Batch:
    """One document a row, as training packs them; nothing is a target and nothing is drawn."""
    config, processor = model.config, model.processor
    assert processor is not None, "the command asks for one first"
    rows, images, places = [], [], []
    for row, document in enumerate(documents):
        ids = [config.bos_token_id]
        for segment in document:
            if isinstance(segment, Image.Image):
                ids.append(config.begin_of_image_id)
                images.append(processor.encode_image(segment))
                places.append((row, len(ids)))
                ids += [config.image_token_id] * config.visual_tokenizer.num_visual_tokens
            else:
                ids += processor.encode_text(segment)
        rows.append(torch.tensor(ids))
    lengths = torch.tensor([len(ids) for ids in rows]).unsqueeze(1)
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id)
    positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        input_ids=input_ids,
        targets=torch.full_like(input_ids, IGNORED),
        document_ids=torch.where(positions < lengths, 0, -1),
        position_ids=positions,
        pixel_values=torch.stack(images),
        image_positions=torch.tensor(places),
        drawn=nothing,
        drawn_pixels=torch.zeros(0, 3, 1, 1),
        drawn_keys=nothing,
    )
