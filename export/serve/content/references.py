"""An image as a request names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageReference:
    """An image that has not been looked at yet."""

    url: str
    """`data:image/png;base64,...`, `https://...`, or one of this server's own `/v1/mmfs/images/SHA256.png`."""

    place: str
    """Where it stands in the request, for messages: `messages[0].content[1].image_url`."""


Part = str | ImageReference
"""A part of a document, as a request has it."""
