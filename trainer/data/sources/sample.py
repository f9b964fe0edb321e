"""What a source holds before anything is chosen, decoded or tokenized: texts, and where the images are stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from models.object_storage import StorageError
from models.write_errors import WriteError
from trainer.data.sources.regular_files import open_regular

MAX_IMAGE_BYTES = 64 << 20
"""A stored image larger than this is refused unread."""

MAX_TEXT_BYTES = 8 << 20
"""The same for the text of a sample, or for the row of a table that it stands in."""


class BrokenSampleError(ValueError):
    """A sample, or an image of one, that cannot be used: damaged, cut off, or beyond a limit."""


class PartialFile(Protocol):
    """A file that is not on this machine (`remote_files`); as a text, it is its URL as messages show it."""

    def read_part(self, offset: int, size: int) -> bytes:
        """Fewer bytes where it ends. Raises BrokenSampleError, StorageError, WriteError."""


@dataclass(frozen=True)
class StoredImage:
    """An image file, or a part of a larger file that holds it."""

    path: Path | PartialFile
    offset: int
    """First byte."""

    size: int
    """Bytes."""

    text: int
    """The text that it belongs to, by number; in a sample with fixed order, the text that follows it."""

    similarity: float | None = None
    """Cosine of the image's and the text's CLIP embeddings, where the source tells it."""

    given: bool = False
    """Whether it belongs to a question: it is seen, and neither drawn nor announced."""

    label_map: bool = False
    """Whether its values are classes."""

    strip: bool = False
    """Whether it is a row of square frames, of which any is the image."""

    as_stored: bool = False
    """Whether it is read without being turned by its EXIF orientation."""

    described_size: tuple[int, int] | None = None
    """Width and height that its boxes are told in."""

    @property
    def name(self) -> str:
        """Names it in messages and in the quarantine file."""
        return f"{self.path} at byte {self.offset}" if self.offset else str(self.path)

    def read(self) -> bytes:
        """The encoded image. Raises BrokenSampleError."""
        if self.size > MAX_IMAGE_BYTES:
            raise BrokenSampleError(f"The image has {self.size:,} bytes; expected at most {MAX_IMAGE_BYTES:,}.")
        return read_bytes(self.path, self.offset, self.size)


@dataclass(frozen=True)
class Marks:
    """What of a sample is learned and how, by numbers of texts and of images; without marks, all is."""

    given_texts: tuple[int, ...] = ()
    """Not learned; they stand as they are written."""

    turn_ends: tuple[int, ...] = ()
    """Texts with `</s>` behind them."""

    given_images: tuple[int, ...] = ()
    label_maps: tuple[int, ...] = ()
    strips: tuple[int, ...] = ()
    as_stored: tuple[int, ...] = ()
    """Images that are not turned by their EXIF orientation."""

    described_sizes: tuple[tuple[int, int, int], ...] = ()
    """Images with the width and height that their boxes are told in."""


@dataclass(frozen=True)
class Sample:
    """Texts and images of a document, or of an image and its caption."""

    key: str
    """Names it: shard/number within the shard."""

    texts: tuple[str, ...]
    images: tuple[StoredImage, ...]
    """In the order of their texts."""

    fixed_order: bool
    """Whether images stand right before their text, as they were published; else before or after it is ours to choose.
    """

    marks: Marks = Marks()

    @property
    def is_pair(self) -> bool:
        """One image and its caption."""
        return not self.fixed_order and len(self.texts) == 1 and len(self.images) == 1


def read_bytes(path: Path | PartialFile, offset: int, size: int) -> bytes:
    """A part of a file. Raises BrokenSampleError if it is not there, or not whole; StorageError if object storage does
    not give it out now; WriteError if the cache has no room for it."""
    try:
        if isinstance(path, Path):
            with open_regular(path) as file:
                file.seek(offset)
                data = file.read(max(size, 0))
        else:
            data = path.read_part(offset, size)
    except (BrokenSampleError, StorageError, WriteError):
        raise
    except (OSError, OverflowError, ValueError) as error:
        raise BrokenSampleError(f"The file cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) < size:
        raise BrokenSampleError(f"The file ends before byte {offset + size:,}, where this has its last.")
    return data


def to_text(data: bytes) -> str:
    """Strict UTF-8, without the byte-order mark that some editors put before it. Raises BrokenSampleError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenSampleError(f"The text is not UTF-8: {error.reason} at byte {error.start}.") from error


def require_text(value: Any, what: str) -> str:
    """The value, which has to be a text. Raises BrokenSampleError; `what` begins its sentence."""
    if not isinstance(value, str):
        raise BrokenSampleError(f"{what} is {_shown(value)}; expected a text.")
    return value


def require_number(value: Any, what: str) -> float:
    """The value, which has to be a finite number. Raises BrokenSampleError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise BrokenSampleError(f"{what} is {_shown(value)}; expected a number.")
    return float(value)


def require_flag(value: Any, what: str) -> bool:
    """The value, which has to be true or false. Raises BrokenSampleError."""
    if not isinstance(value, bool):
        raise BrokenSampleError(f"{what} is {_shown(value)}; expected true or false.")
    return value


def _shown(value: Any) -> str:
    """A foreign value in a message."""
    if isinstance(value, str | bytes | list | tuple | dict) and len(value) > 20:
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    return f"{value!r:.80}"
