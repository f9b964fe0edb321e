"""The content of messages: a string, or parts, as chat completions and responses have them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from export.serve.content.references import IMAGE_PATH, ImageReference, Part
from export.serve.errors import invalid

MARKDOWN_IMAGE = re.compile(r"!\[[^\]\n]{0,200}\]\((\S{0,200}?" + re.escape(IMAGE_PATH) + r"[0-9a-f]{64}\.png)\)")
"""A link to such an image, as `image_format` "markdown" writes it."""


class Wire(BaseModel):
    """A part of a request. Types are as JSON has them: "1" is no number."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class ImageURL(Wire):
    """An image as chat completions have it."""

    url: str


class TextPart(Wire):
    """Text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ImagePart(Wire):
    """An image, as a data URL or an address."""

    type: Literal["image_url", "input_image"]
    image_url: ImageURL | str

    @property
    def url(self) -> str:
        """Whichever way it was given."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Place(Wire):
    """Where a piece of an answer stands in `mmfs.content`."""

    type: Literal["text", "image"]
    text: str | None = None
    index: int | None = None


class MessageExtras(Wire):
    """What this server adds to a message."""

    content: list[Place] | None = None


class Message(Wire):
    """A message, in any of the forms in which clients send them (back)."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None
    images: list[ImagePart] | None = None
    mmfs: MessageExtras | None = None

    def parts(self, place: str) -> Iterator[Part]:
        """Its texts and images in order.

        Args:
            place: of the message in the request.

        Raises:
            RequestError: the order in `mmfs.content` is not one of this message's texts and images.
        """
        images = [
            ImageReference(image.url, f"{place}.images[{i}].image_url") for i, image in enumerate(self.images or ())
        ]
        if self.mmfs is not None and self.mmfs.content is not None:
            yield from self._in_order(images, self.mmfs.content, place)
            return
        if isinstance(self.content, str):
            yield from text_parts(self.content, f"{place}.content", links=self.role == "assistant")
        for i, part in enumerate(self.content if isinstance(self.content, list) else ()):
            if isinstance(part, TextPart):
                yield from text_parts(part.text, f"{place}.content[{i}]", links=self.role == "assistant")
            else:
                yield ImageReference(part.url, f"{place}.content[{i}].image_url")
        yield from images

    def _in_order(self, images: list[ImageReference], order: list[Place], place: str) -> Iterator[Part]:
        texts = [one.text or "" for one in order if one.type == "text"]
        numbers = [one.index for one in order if one.type == "image"]
        if "".join(texts) != (self.content or "") or numbers != list(range(len(images))):
            raise invalid(
                f"{place}.mmfs.content does not list this message's content and images in order. Leave mmfs out of a "
                "message that was changed, or change it too.",
                f"{place}.mmfs.content",
            )
        for one in order:
            if one.type == "image":
                assert one.index is not None
                yield images[one.index]
            elif one.text:
                yield one.text


def text_parts(text: str, place: str, *, links: bool) -> Iterator[Part]:
    """A text; with `links`, those to this server's own images become the images again."""
    end = 0
    for found in MARKDOWN_IMAGE.finditer(text) if links else ():
        if before := text[end : found.start()]:
            yield before
        yield ImageReference(found[1], place)
        end = found.end()
    if rest := text[end:]:
        yield rest


def text_place(text: str) -> dict[str, Any]:
    """An entry of `mmfs.content`."""
    return {"type": "text", "text": text}


def image_place(index: int) -> dict[str, Any]:
    """An entry of `mmfs.content`."""
    return {"type": "image", "index": index}
