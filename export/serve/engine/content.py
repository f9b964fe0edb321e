"""What a document consists of, token by token: by this, what has been read is found again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from models.generation.state import Piece

Item = int | str
"""A token's id, or the digest of an image, once for each of its visual tokens."""


def items_of(pieces: Sequence[Piece], num_visual_tokens: int) -> list[Item]:
    """One item for each token that these pieces are read as."""
    items: list[Item] = []
    for piece in pieces:
        items += [digest(piece)] * num_visual_tokens if isinstance(piece, Tensor) else piece
    return items


def digest(image: Tensor) -> str:
    """Of an image as the model reads it: SHA-256 of its numbers."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def common_length(left: Sequence[Item], right: Sequence[Item]) -> int:
    """How many items both begin with, without a part of an image."""
    length = next(
        (place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other),
        min(len(left), len(right)),
    )
    return whole_images(left, length)


def whole_images(items: Sequence[Item], length: int) -> int:
    """The same length, or less where it would end within an image. Two images never touch: `<BoI>` is between them."""
    while 0 < length < len(items) and isinstance(items[length], str) and items[length - 1] == items[length]:
        length -= 1
    return length


def num_images(items: Sequence[Item]) -> int:
    """Images among them."""
    return sum(isinstance(item, str) for item, _ in groupby(items))


def split_pieces(pieces: Sequence[Piece], num_tokens: int, num_visual_tokens: int) -> tuple[list[Piece], list[Piece]]:
    """The first tokens and the rest; an image over the border belongs to the rest."""
    first: list[Piece] = []
    for number, piece in enumerate(pieces):
        size = num_visual_tokens if isinstance(piece, Tensor) else len(piece)
        if size <= num_tokens:
            first.append(piece)
            num_tokens -= size
        elif isinstance(piece, Tensor) or num_tokens == 0:
            return first, list(pieces[number:])
        else:
            return [*first, piece[:num_tokens]], [piece[num_tokens:], *pieces[number + 1 :]]
    return first, []
