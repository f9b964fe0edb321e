"""What `generate` returns and `generate_stream` yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from models.generation.boxes import Box, read_boxes
from models.generation.documents import PromptSegment, Segment
from models.generation.rendering import to_html, to_image
from models.generation.sampling_locations import SamplingLocations

FinishReason = Literal["end", "stop", "max_new_tokens", "max_new_images", "length"]


@dataclass(frozen=True)
class Progress:
    """A denoising step of an image is done."""

    index: int
    """Of the image among the new ones of its document, from 0."""

    step: int
    """From 1 to `num_steps`."""

    num_steps: int


@dataclass(frozen=True)
class Finished:
    """A document is complete: what comes last of it."""

    finish_reason: FinishReason
    """Why; see `Generated.finish_reason`."""

    num_cut: int
    """How many of the oldest segments of the prompt were left out, because they did not fit."""

    num_prompt_tokens: int
    """Places of the language model that the prompt takes: begin of text, text, each image's `<BoI>` and visual
    tokens."""

    num_new_tokens: int
    """Tokens written, without the end token; an image counts as one."""

    num_cached_tokens: int
    """How many of the prompt's tokens had been read before, in a conversation."""

    sampling_locations: SamplingLocations | None = field(default=None, repr=False, compare=False)
    """Where MMFS sampled the images to write and draw this, with the option of that name."""


@dataclass(frozen=True, eq=False)
class Preview:
    """An image that is still being drawn."""

    image: Image.Image
    """What it would be if the last prediction were right."""

    done: int
    num_inference_steps: int


Event = Segment | Progress | Preview | Finished
"""What a stream yields: pieces of the document, and what happens meanwhile."""


class Generated(list[Segment]):
    """The new segments of a document, in order; adjacent text is one string.

    A list with further facts about the document.
    """

    def __init__(self, prompt: Sequence[PromptSegment], num_cut: int = 0) -> None:
        super().__init__()
        self.prompt = list(prompt)
        """What it continues."""

        self.num_cut = num_cut
        """How many of the oldest segments of the prompt were left out, because they did not fit."""

        self.finish_reason: FinishReason = "end"
        """Why it ends: "end": end token. "stop": stop text. "max_new_tokens", "max_new_images": that option. "length":
        that of the language model."""

        self.num_prompt_tokens = self.num_new_tokens = self.num_cached_tokens = 0
        """See `Finished`."""

        self.sampling_locations: SamplingLocations | None = None
        """Where MMFS sampled the images to write and draw this, with the option of that name."""

    def add(self, event: Event) -> None:
        """Take what a stream yields: append an image or some more text, note the facts that come at the end; progress
        and previews leave nothing behind."""
        if isinstance(event, str) and self and isinstance(self[-1], str):
            self[-1] += event
        elif isinstance(event, str | Image.Image):
            self.append(event)
        elif isinstance(event, Finished):
            self.finish_reason, self.num_cut = event.finish_reason, event.num_cut
            self.num_prompt_tokens, self.num_new_tokens = event.num_prompt_tokens, event.num_new_tokens
            self.num_cached_tokens = event.num_cached_tokens
            self.sampling_locations = event.sampling_locations

    @property
    def text(self) -> str:
        """All new text together."""
        return "".join(segment for segment in self if isinstance(segment, str))

    @property
    def images(self) -> list[Image.Image]:
        """All new images."""
        return [segment for segment in self if isinstance(segment, Image.Image)]

    @property
    def boxes(self) -> list[Box]:
        """Boxes that the new text names, as shares of the image: (left, top, right, bottom)."""
        return read_boxes(self.text)

    def to_html(self) -> str:
        """Prompt and result as a page of its own."""
        return to_html(self.prompt, self)

    def to_image(self) -> Image.Image:
        """Prompt and result below each other in one image."""
        return to_image(self.prompt, self)

    def show(self) -> None:
        """Open that image in the system's viewer."""
        self.to_image().show()

    def _repr_html_(self) -> str:  # notebooks show it
        return self.to_html()
