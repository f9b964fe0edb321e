"""Documents to tokens, and tokens to rows of whole documents.

A document is `<s>`, its segments, `</s>`; an image is `<BoI>` and as many placeholders as it has visual tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from models.batch import IGNORED
from models.plain_text import PlainTextEncoder
from trainer.data.document import Document, Text, is_drawn


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that a document needs besides its text."""

    pad: int
    begin: int
    end: int
    begin_of_image: int
    image: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> SpecialTokens:
        """The ids of `<pad> <s> </s> <BoI> <image>`; a ValueError names those that the tokenizer lacks."""
        names = ("<pad>", "<s>", "</s>", "<BoI>", "<image>")
        ids = [token for token in map(tokenizer.token_to_id, names) if token is not None]
        if len(ids) < len(names):
            missing = [name for name in names if tokenizer.token_to_id(name) is None]
            raise ValueError(f"The tokenizer has no {', '.join(missing)}; add them as special tokens.")
        return cls(*ids)


@dataclass(frozen=True, eq=False)
class PlacedImage:
    """An image of a token sequence."""

    column: int
    """Where its first visual token stands."""

    pixels: np.ndarray
    """uint8 [h, w, 3]."""

    drawn: bool
    target: np.ndarray | None = None
    """What to draw, uint8 [h, w, 3]; None: `pixels`."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """A document as tokens; `input_ids` and `targets` are equally long."""

    key: str
    dataset: str
    """The part of a mixture that the document is from: its task of the emoji world, or its source."""

    input_ids: list[int]
    targets: list[int]
    """What each position has to predict, -100 nothing."""

    images: list[PlacedImage]


@dataclass(frozen=True, eq=False)
class Row:
    """Whole documents, one after the other, not yet padded."""

    documents: list[Tokens]

    @property
    def num_tokens(self) -> int:
        return sum(len(document.input_ids) for document in self.documents)


def tokenize(document: Document, encode: PlainTextEncoder, special: SpecialTokens, num_visual_tokens: int) -> Tokens:
    """Tokens and targets of a document. Text is text, whatever it spells; special tokens come from its structure.

    Supervised are the text with loss, `<BoI>` after text, and `</s>`. Placeholders never are, nor is a `<BoI>` that
    opens the document, follows another image or has an image of a question behind it: where images stand is then the
    reader's choice, not the text's.
    """
    ids = [special.begin]
    wanted = [False]  # whether the token before has to predict this one
    images = []
    for index, segment in enumerate(document.segments):
        if isinstance(segment, Text):
            text = encode(segment.text)
            ids += text
            wanted += [segment.loss] * len(text)
            if segment.ends_turn:
                ids.append(special.end)
                wanted.append(segment.loss)
            continue
        ids.append(special.begin_of_image)
        wanted.append(segment.placed and index > 0 and isinstance(document.segments[index - 1], Text))
        images.append(PlacedImage(len(ids), segment.pixels, is_drawn(document, index), segment.target))
        ids += [special.image] * num_visual_tokens
        wanted += [False] * num_visual_tokens
    ids.append(special.end)
    wanted.append(True)
    targets = [token if want else IGNORED for token, want in zip(ids[1:], wanted[1:], strict=True)]
    return Tokens(document.key, document.task, ids, [*targets, IGNORED], images)


def cut(document: Tokens, num_tokens: int, num_visual_tokens: int, max_images: int) -> Tokens:
    """The beginning of a document: at most so many tokens and images. An image is in it whole or not at all.

    The last token predicts nothing, and `</s>` is gone with the rest.
    """
    end = min(num_tokens, len(document.input_ids))
    for number, image in enumerate(document.images):
        begin_of_image = image.column - 1
        if number == max_images or image.column + num_visual_tokens > end:
            end = min(end, begin_of_image)
            break
    if end == len(document.input_ids):
        return document
    images = [image for image in document.images if image.column < end]
    targets = [*document.targets[: max(0, end - 1)], IGNORED][:end]
    return Tokens(document.key, document.dataset, document.input_ids[:end], targets, images)


def pack_row(documents: Iterable[Tokens], row_tokens: int) -> Row:
    """Takes documents until the next one does not fit; none is split.

    Raises:
        ValueError: a document alone is longer than a row.
    """
    packed: list[Tokens] = []
    used = 0
    for document in documents:
        length = len(document.input_ids)
        if length > row_tokens:
            raise ValueError(
                f"Document {document.key} has {length} tokens, a row {row_tokens}; documents are never split. "
                "Make rows longer (row_tokens) or take fewer visual tokens an image."
            )
        if used + length > row_tokens:
            break
        packed.append(document)
        used += length
    return Row(packed)
