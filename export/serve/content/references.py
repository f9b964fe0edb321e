"""An image as a request names it, and the address of one that this server keeps."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_PATH = "/v1/mmfs/images/"
"""Below which this server answers with an image, by the SHA-256 of its PNG file."""


def kept_address(public_url: str, digest: str) -> str:
    """Where an image of this server is found.

    Args:
        public_url: of this server.
        digest: SHA-256 of the PNG file, in hexadecimal.
    """
    return f"{public_url}{IMAGE_PATH}{digest}.png"


@dataclass(frozen=True)
class ImageReference:
    """An image that has not been looked at yet."""

    url: str
    """`data:image/png;base64,...`, `https://...`, or one of this server's own `/v1/mmfs/images/SHA256.png`."""

    place: str
    """Where it stands in the request, for messages: `messages[0].content[1].image_url`."""


Part = str | ImageReference
"""A part of a document, as a request has it."""
