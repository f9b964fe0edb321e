"""Writing images and text by turns: with everything read once, and the way the released script does it.

The released script begins each turn anew: it encodes every image and reads the whole document again, once to write
text and once to draw. To draw, a grey image stands in the place of the one to come, and is encoded and read as well.
Its MMFS layers project the features of all images for every token; those of the U-Net for every denoising step, once
for each half of the guidance, which are one batch. Within a turn it keeps keys and values, as we do. What it does
besides is not here, so that the comparison is of reading alone: it takes Eq. 4 as written, image by image, projects the
context of every image to draw one, and loads the diffusion pipeline from disk for each image. The released U-Net
samples the nearest image (`context_images="previous"`); the toy's, in both ways of writing, all before it ("all").

Letters: N images of the bank, S pixels of all levels of an image, C channels of the features, H heads, D channels of a
head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models import MMInterleaved
from models.denoising_options import Denoising
from models.generation.image_bank import ImageBank
from models.generation.state import Piece
from models.generation.torch_state import TorchGenerationState


@dataclass(frozen=True)
class Turns:
    """How much is written: in each turn so many tokens, the likeliest, and an image."""

    num_turns: int
    num_tokens: int
    num_inference_steps: int

    @property
    def denoising(self) -> Denoising:
        return Denoising(num_inference_steps=self.num_inference_steps)


@dataclass
class Written:
    """The tokens and images that were written."""

    tokens: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)  # [3, h, w]


@torch.inference_mode()
def write_reading_once(model: MMInterleaved, prompt: Sequence[Piece], turns: Turns) -> Written:
    """As `generate` does."""
    written, state = Written(), TorchGenerationState(model)
    state.read([list(prompt)])
    for turn in range(turns.num_turns):
        text = _write_text(state, turns, written)
        state.read([[[text[-1], model.config.begin_of_image_id]]])
        image = _draw(state, turn, turns, written)
        if turn + 1 < turns.num_turns:
            state.read([[image]])
    return written


@torch.inference_mode()
def write_reading_again(model: MMInterleaved, prompt: Sequence[Piece], turns: Turns) -> Written:
    """As the released script does."""
    written, document = Written(), list(prompt)
    grey = torch.full((3, *model.config.image_size), 0.5)
    for turn in range(turns.num_turns):
        state = ForgetfulGenerationState(model)
        state.read([document])
        document.append([*_write_text(state, turns, written), model.config.begin_of_image_id])
        state = ForgetfulGenerationState(model)
        state.read([[*document, grey]])
        state.forget_last_image()
        document.append(_draw(state, turn, turns, written))
    return written


def _write_text(state: TorchGenerationState, turns: Turns, written: Written) -> list[int]:
    """The tokens of a turn; the last one has not been read yet."""
    text: list[int] = []
    for _ in range(turns.num_tokens):
        if text:
            state.read([[text[-1:]]])
        assert state.logits is not None, "a document starts with <s>"
        text.append(int(state.logits[0].argmax()))
    written.tokens += text
    return text


def _draw(state: TorchGenerationState, turn: int, turns: Turns, written: Written) -> Tensor:
    """An image, and the same as the model reads it."""
    for step in state.draw([0], [turn], turns.denoising):
        latents = step.latents
    image = state.decode(latents)[0]
    written.images.append(image)
    height, width = state.model.config.image_size
    return torch.nn.functional.interpolate(image[None], (height, width), mode="bilinear")[0]


class ForgetfulGenerationState(TorchGenerationState):
    """Reads by the layers themselves, and projects the images for every call."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__(model)
        self.folded = None
        self.seen = ForgetfulBank(model.language_model.project_values, self.seen.nothing)
        drawn_from = ForgetfulBank(model.image_decoder.unet.project_values, self.drawn_from.nothing, copies=2)
        self.drawn_from = self._drawn_from = drawn_from

    def forget_last_image(self) -> None:
        """What has been read ends before the visual tokens of the image that it ended with."""
        self.lengths[0] -= self.config.visual_tokenizer.num_visual_tokens
        self._drawn_from.features = self._drawn_from.features[:-1]


class ForgetfulBank(ImageBank):
    """Keeps the features of one document's images. Whenever a network samples them, so many copies are projected."""

    def __init__(self, project: Callable[[Tensor], list[Tensor]], nothing: Tensor, copies: int = 1) -> None:
        super().__init__(project, nothing)
        self.features = nothing  # [N, S, C]
        self.copies = copies

    def add(self, features: Tensor, owners: Sequence[int], which: Sequence[int] | None = None) -> None:
        assert which is None or list(which) == list(range(len(features))), "one document shares no images"
        self.features = torch.cat([self.features, features])

    def values(self) -> Sequence[Tensor]:
        return FreshValues(self._project, self.features.repeat(self.copies, 1, 1), len(self._values))

    def range_of(self, owner: int) -> tuple[int, int]:
        return 0, len(self.features)


class FreshValues(Sequence[Tensor]):
    """For each synchronizer [N, S, H, D] of its own levels, projected again in each iteration."""

    def __init__(self, project: Callable[[Tensor], list[Tensor]], features: Tensor, num_synchronizers: int) -> None:
        self.project, self.features, self.num_synchronizers = project, features, num_synchronizers

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.project(self.features))

    def __getitem__(self, index: Any) -> Any:
        return self.project(self.features)[index]

    def __len__(self) -> int:
        return self.num_synchronizers
