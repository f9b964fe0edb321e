"""Documents as a caller gives them, and as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from models.config import MMInterleavedConfig
from models.generation.image_names import names_an_image
from models.generation.options import GenerationOptions
from models.generation.state import GenerationState, Piece
from models.json_files import cut
from models.processor import MMInterleavedProcessor

Segment = str | Image.Image
"""What is written: text or an image."""


class PlainText(str):
    """A text that may look like the name or the address of an image, and is a text all the same."""


PromptSegment = str | Image.Image | Tensor | np.ndarray
"""What is read: also float tensors [3, h, w] in [0, 1] and uint8 arrays [h, w, 3]."""

Document = Sequence[PromptSegment]
"""Text and images in reading order; any number of either, also none."""


def batch_of(documents: Document | Sequence[Document]) -> tuple[list[Document], bool]:
    """The documents, and whether they were a list of documents; otherwise the list's items are the segments of one.
    An empty list is one empty document.

    Raises:
        ValueError: neither; the message says which item is wrong.
    """
    if isinstance(documents, PromptSegment) or not isinstance(documents, Sequence):
        raise ValueError(f"documents is one {type(documents).__name__}; expected a list of texts and images: [it].")
    lists = [item for item in documents if isinstance(item, list | tuple)]
    segments = [item for item in documents if isinstance(item, PromptSegment)]
    if not lists:
        _check_segments(documents, "documents")
        return [segments], False
    if len(lists) < len(documents):
        raise ValueError(
            f"documents holds {len(lists)} lists and {len(documents) - len(lists)} segments; expected the segments of "
            "one document, or a list of such lists."
        )
    for number, document in enumerate(lists):
        _check_segments(document, f"documents[{number}]")
    return list(lists), True


def segments_of(document: Document) -> list[PromptSegment]:
    """The segments of one document.

    Raises:
        ValueError: it is not a list of texts and images.
    """
    [segments, *_], batched = batch_of(document)
    if batched:
        raise ValueError("document is a list of lists; expected the texts and images of one document.")
    return list(segments)


def _check_segments(segments: Sequence[object], name: str) -> None:
    for i, segment in enumerate(segments):
        if isinstance(segment, str) and not isinstance(segment, PlainText) and names_an_image(segment):
            raise ValueError(
                f"{name}[{i}] is {cut(segment)!a}, the name or address of an image, given as text. Give the image "
                "itself: PIL.Image.open(...) of a file. If the text is meant, put it into a longer one, or give it as "
                "models.generation.documents.PlainText(...)."
            )
        if isinstance(segment, bytes | Path):
            raise ValueError(
                f"{name}[{i}] is a {type(segment).__name__}; expected an image or a text. Open it with "
                "models.images.image_file.open_image(...)."
            )
        if not isinstance(segment, PromptSegment):
            raise ValueError(
                f"{name}[{i}] is a {type(segment).__name__}; expected str, PIL image, float tensor [3, h, w] or "
                "uint8 array [h, w, 3]."
            )


def pieces_of(segment: PromptSegment, processor: MMInterleavedProcessor, config: MMInterleavedConfig) -> list[Piece]:
    """What the model reads of one segment: an image stands behind its `<BoI>`."""
    if isinstance(segment, str):
        return [text_ids(segment, processor, config)]
    return [[config.begin_of_image_id], processor.encode_image(segment)]


def text_ids(text: str, processor: MMInterleavedProcessor, config: MMInterleavedConfig) -> list[int]:
    """Token ids of a text, none of which means an image, or begin or end of text.

    Raises:
        ValueError: the tokenizer makes one of them from this text, for it does not know that the token is special.
    """
    ids = processor.encode_text(text)
    reserved = {config.bos_token_id, config.eos_token_id, config.begin_of_image_id, config.image_token_id}
    if found := reserved.intersection(ids):
        names = ", ".join(str(processor.tokenizer.id_to_token(one)) for one in sorted(found))
        raise ValueError(
            f"The text spells {names}, which this tokenizer reads as a token that has a meaning of its own. Mark it as "
            "special in tokenizer.json (added_tokens), so that it can be told from text."
        )
    return ids


def whole_document(segments: Sequence[list[Piece]], config: MMInterleavedConfig) -> list[Piece]:
    """What the model reads of a document, given the pieces of each segment: it begins with `<s>`."""
    return [[config.bos_token_id], *(piece for pieces in segments for piece in pieces)]


def prompt_of(
    segments: list[list[Piece]], options: GenerationOptions, state: GenerationState, document: int
) -> tuple[list[Piece], int]:
    """What the model reads of a document before it goes on; with overflow "cut", without the segments that do not fit.

    Args:
        segments: pieces of each.
        options: of `generate`.
        state: of the model; see `cut_to_fit`.
        document: its number.

    Returns:
        The pieces of the whole, and how many of the oldest segments were left out.
    """
    kept, config = segments, state.config
    if options.overflow == "cut":
        num_new = 1 + options.most_new_places(config.visual_tokenizer.num_visual_tokens)
        kept = cut_to_fit(segments, state, num_new, document)
    return whole_document(kept, config), len(segments) - len(kept)


def cut_to_fit(segments: list[list[Piece]], state: GenerationState, num_new: int, document: int) -> list[list[Piece]]:
    """The last segments of a document: as many as fit into the language model, but at least one.

    Args:
        segments: pieces of each.
        state: of the model; what the document's row has read is part of these segments.
        num_new: tokens that are kept free for new text and images.
        document: its number.
    """
    kept = list(segments)
    num_new -= state.lengths[document]
    while len(kept) > 1 and state.excess(document, num_new + sum(map(state.num_tokens, kept))) > 0:
        del kept[0]
    return kept
