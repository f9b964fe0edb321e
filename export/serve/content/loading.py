"""The images that a request names, read within limits."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from export.serve.content.fetching import Fetcher
from export.serve.content.kept import Kept
from export.serve.content.references import IMAGE_PATH, ImageReference, Part
from export.serve.errors import RequestError, invalid
from models.generation.documents import PlainText, PromptSegment
from models.images.image_file import FORMATS, open_image
from models.images.rgb import UnreadableImageError
from models.json_files import shortened

DATA_URL = re.compile(r"data:(?P<type>[^;,]{0,100})(?P<parameters>(?:;[^;,]{0,100}){0,4}),", re.IGNORECASE)
STORED = re.compile(r"(?:https?://[^/?#]{1,200})?(?:/\S{0,100})?" + re.escape(IMAGE_PATH) + r"([0-9a-f]{64})\.png")


@dataclass(frozen=True)
class ContentLimits:
    """What a document of a request may hold."""

    max_parts: int = 2000
    max_images: int = 16
    max_image_bytes: int = 10 << 20
    """Of an image's file."""

    max_pixels: int = 40_000_000


class DocumentLoader:
    """Reads the images of documents. Any thread may use it.

    Args:
        limits: of a document.
        min_side: pixels of an image's shorter side that the model has use for; a larger image may come out smaller.
        store: PNG files of this server's own images by their SHA-256.
        fetcher: of images elsewhere.
    """

    def __init__(self, limits: ContentLimits, min_side: int, store: Kept[bytes], fetcher: Fetcher) -> None:
        self.limits = limits
        self.min_side = min_side
        self.store = store
        self.fetcher = fetcher

    def load(self, parts: Sequence[Part]) -> list[PromptSegment]:
        """The document with its images; one that stands in it twice is read once.

        Raises:
            RequestError: it holds more than the limits (400, 413), or an image cannot be read (422).
        """
        images = [part for part in parts if isinstance(part, ImageReference)]
        if len(parts) > self.limits.max_parts:
            raise invalid(f"The request has {len(parts)} parts; this server takes {self.limits.max_parts}. Join texts.")
        if len(images) > self.limits.max_images:
            raise invalid(
                f"The request has {len(images)} images; this server takes {self.limits.max_images}. Send the newest.",
                images[self.limits.max_images].place,
            )
        read: dict[str, Image.Image] = {}
        document: list[PromptSegment] = []
        for part in parts:
            if isinstance(part, str):
                document.append(PlainText(part))
                continue
            if part.url not in read:
                read[part.url] = self._image(part)
            document.append(read[part.url])
        return document

    def _image(self, image: ImageReference) -> Image.Image:
        data = self._bytes(image)
        if len(data) > self.limits.max_image_bytes:
            raise self._too_large(image)
        try:
            return open_image(data, max_pixels=self.limits.max_pixels, min_side=self.min_side)
        except UnreadableImageError as error:
            raise invalid(f"{image.place}: {error}", image.place, 422) from error

    def _bytes(self, image: ImageReference) -> bytes:
        if found := STORED.fullmatch(image.url):
            stored = self.store.get(found[1])
            if stored is None:
                raise invalid(
                    f"{image.place} is a link to an image that this server does not keep any more, or never made. Send "
                    "the image itself, as a data URL.",
                    image.place,
                    404,
                )
            return stored
        if found := DATA_URL.match(image.url):
            return self._inline(image, found)
        if re.match(r"https?://", image.url, re.IGNORECASE):
            return self.fetcher.fetch(image, self.limits.max_image_bytes)
        raise invalid(
            f"{image.place} is {shortened(image.url)}; expected a data URL, data:image/png;base64,... .",
            image.place,
            422,
        )

    def _inline(self, image: ImageReference, head: re.Match[str]) -> bytes:
        media_type = head["type"].lower().strip()
        if not head["parameters"].lower().endswith(";base64"):
            raise invalid(f"{image.place} is a data URL without ;base64. Encode the image so.", image.place, 422)
        known = {f"image/{name.lower()}" for name in FORMATS} | {"image/jpg", "application/octet-stream", ""}
        if media_type not in known:
            names = ", ".join(FORMATS)
            raise invalid(
                f"{image.place} is of the type {shortened(media_type)}; expected one of {names}. Convert it.",
                image.place,
                422,
            )
        text = image.url[head.end() :]
        if len(text) > 4 * (self.limits.max_image_bytes + 3) // 3:
            raise self._too_large(image)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise invalid(f"{image.place} is no base64: {error}.", image.place, 422) from error

    def _too_large(self, image: ImageReference) -> RequestError:
        most = self.limits.max_image_bytes
        return invalid(f"{image.place} has more than {most:,} bytes. Make the image smaller.", image.place, 413)
