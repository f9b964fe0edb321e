"""Index arithmetic of packed rows: which images a token sees, which tokens see each other, what an image is drawn from.

Letters: B rows, T tokens a row, N images of the bank, M drawn images, K context length.
Everything here is integer work on `Batch` fields, without learned parameters.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import Batch
from models.documents import Documents


def token_visible(batch: Batch) -> Tensor:
    """Range of images that each token may attend to, [B, T, 2] int64 (first, one past last) into the image bank.

    A token sees the images of its own document from their first visual token on; `<BoI>` does not yet see its image
    (paper 3.2: every token accesses the previous images only; in the release, an image's own tokens see it).
    Padding sees nothing.
    """
    rows, length = batch.input_ids.shape
    here = torch.arange(rows * length, device=batch.input_ids.device).view(rows, length)
    image = batch.image_positions[:, 0] * length + batch.image_positions[:, 1]  # [N], ascending
    first = torch.searchsorted(image, here - batch.position_ids)
    last = torch.searchsorted(image, here, right=True)
    visible = torch.stack([first, torch.maximum(first, last)], dim=-1)
    return visible * (batch.document_ids >= 0).unsqueeze(-1)


def attention_mask(batch: Batch, packing: Literal["document", "causal"] = "document") -> Tensor:
    """What each token attends to, [B, 1, T, T] bool: itself, and earlier tokens of the same document ("document") or of
    the row ("causal": documents leak into those packed after them, as in the release)."""
    same = batch.document_ids.unsqueeze(2) == batch.document_ids.unsqueeze(1)
    if packing == "causal":
        same = torch.ones_like(same)
    return (same & torch.ones_like(same[0]).tril()).unsqueeze(1)


def documents(batch: Batch, packing: Literal["document", "causal"] = "document") -> Documents:
    """The same as ranges of tokens, each of which attends within itself, to what is before it. Padding is a document of
    its own; nothing that is learned reads it."""
    rows, length = batch.document_ids.shape
    begins = torch.zeros_like(batch.document_ids, dtype=torch.bool)
    begins[:, 0] = True
    if packing == "document":
        begins[:, 1:] = batch.document_ids[:, 1:] != batch.document_ids[:, :-1]
    ends = F.pad(begins.flatten().nonzero().squeeze(1), (0, 1), value=rows * length)
    lengths = ends.diff().tolist()
    return Documents(ends.int(), max(lengths), tuple(lengths))


def position_ids(batch: Batch, packing: Literal["document", "causal"] = "document") -> Tensor:
    """What the language model takes for a token's position, [B, T] int64: counted from the start of its document, or of
    its row."""
    if packing == "document":
        return batch.position_ids
    return torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)


def image_visible(batch: Batch, context_images: Literal["all", "previous"]) -> Tensor:
    """Range of images that each drawn image may attend to, [M, 2] int64: those before it in its document."""
    row, column = batch.image_positions[batch.drawn].unbind(-1)
    length = batch.input_ids.shape[1]
    image = batch.image_positions[:, 0] * length + batch.image_positions[:, 1]
    document_start = row * length + column - batch.position_ids[row, column]
    first = torch.searchsorted(image, document_start)
    if context_images == "previous":
        first = torch.maximum(first, batch.drawn - 1)
    return torch.stack([first, batch.drawn], dim=-1)


def gather_context(hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Hidden states that each drawn image is made from, nearest first.

    Args:
        hidden: [B, T, C] output of the language model.
        batch: the rows it was computed from.

    Returns:
        [M, K, C], the states from the image's `<BoI>` back to the start of its document, and [M, K] bool: which of
        them exist. K is the longest context of the batch.
    """
    row, column = batch.image_positions[batch.drawn].unbind(-1)
    begin_of_image = column - 1
    length = batch.position_ids[row, begin_of_image] + 1  # [M]
    longest = int(length.max()) if length.numel() else 0
    back = torch.arange(longest, device=hidden.device)
    exists = back < length.unsqueeze(1)
    columns = (begin_of_image.unsqueeze(1) - back).clamp(min=0)
    return hidden[row.unsqueeze(1), columns], exists
