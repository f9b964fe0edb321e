"""Documents as a caller gives them, and as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from models.config import MMInterleavedConfig
from models.generation.state import GenerationState, Piece
from models.processor import MMInterleavedProcessor

Segment = str | Image.Image
"""What is written: text or an image."""

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
    if isinstance(documents, PromptSegment):
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


def _check_segments(segments: Sequence[object], name: str) -> None:
    for i, segment in enumerate(segments):
        if not isinstance(segment, PromptSegment):
            raise ValueError(
                f"{name}[{i}] is a {type(segment).__name__}; expected str, PIL image, float tensor [3, h, w] or "
                "uint8 array [h, w, 3]."
            )


def pieces_of(segment: PromptSegment, processor: MMInterleavedProcessor, config: MMInterleavedConfig) -> list[Piece]:
    """What the model reads of one segment: an image stands behind its `<BoI>`."""
    if isinstance(segment, str):
        return [processor.encode_text(segment)]
    return [[config.begin_of_image_id], processor.encode_image(segment)]


def cut_to_fit(segments: list[list[Piece]], state: GenerationState, num_new: int, document: int) -> list[list[Piece]]:
    """The last segments of a document: as many as fit into the language model, but at least one.

    Args:
        segments: pieces of each.
        state: before it has read anything.
        num_new: tokens that are kept free for new text and images.
        document: its number.
    """
    kept = list(segments)
    while len(kept) > 1 and state.excess(document, num_new + sum(map(state.num_tokens, kept))) > 0:
        del kept[0]
    return kept
