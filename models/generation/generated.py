"""What `generate` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from models.generation.boxes import Box, read_boxes
from models.generation.documents import PromptSegment, Segment
from models.generation.rendering import to_html, to_image

FinishReason = Literal["end", "stop", "max_new_tokens", "max_new_images", "length"]


@dataclass(frozen=True, eq=False)
class Preview:
    """An image that is still being drawn."""

    image: Image.Image
    """What it would be if the last prediction were right."""

    done: int
    num_inference_steps: int


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

    def add(self, piece: Segment) -> None:
        """Append an image or some more text."""
        if isinstance(piece, str) and self and isinstance(self[-1], str):
            self[-1] += piece
        else:
            self.append(piece)

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
