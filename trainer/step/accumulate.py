"""Forward and backward of one micro-batch, with losses over global counts and the memory of one chunk.

Letters: B rows, T tokens a row, K of them supervised, C language-model width, N images of the bank, M of them drawn,
S pyramid pixels, F feature width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from models import Batch, MMInterleaved


@dataclass(frozen=True)
class Chunks:
    """How much of the two branches after the language model is in memory at once; None: all of the micro-batch."""

    images: int | None = None
    """Drawn images whose U-Net graph exists at a time. It costs no computation."""

    tokens: int | None = None
    """Supervised tokens whose logits exist at a time. Their head is computed twice."""

    def __post_init__(self) -> None:
        for name, value in (("images", self.images), ("tokens", self.tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} of Chunks is {value}; expected 1 or more, or None for all at once.")


@dataclass(frozen=True)
class Losses:
    """What one micro-batch adds to the losses, piece by piece; nothing of a graph."""

    text: Tensor
    """[K] float32, of the supervised tokens, row by row."""

    image: Tensor
    """[M] float32, of the drawn images; the weight of the image loss is not in it."""


def accumulate(
    model: MMInterleaved,
    batch: Batch,
    *,
    num_targets: int,
    num_drawn: int,
    chunks: Chunks = Chunks(),
    dtype: torch.dtype = torch.float32,
) -> Losses:
    """Add the gradient of `text.sum() / num_targets + image_loss_weight * image.sum() / num_drawn` to `.grad`.

    It is the gradient of `model(batch).loss` where the counts are those of the batch alone, and of the mean over the
    global batch where they are those of all micro-batches of all processes together. The image branch runs forward and
    backward chunk by chunk on what the language model and the encoder gave it, detached; the gradients that it leaves
    there go through both in one backward at the end.

    Args:
        model: in training mode.
        batch: on the model's device.
        num_targets: supervised tokens of the global batch (paper Eq. 2); 0 counts as 1.
        num_drawn: drawn images of the global batch (paper Eq. 3); 0 counts as 1.
        chunks: how much is in memory at once.
        dtype: what matrices are multiplied in: bfloat16 with autocast, or the parameters' own (float32). Parameters and
            their gradients stay as they are.
    """
    # Its cache would keep a copy of all weights until it ends, layers that are gathered one by one among them.
    precision = partial(
        torch.autocast, model.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False
    )
    with precision():
        text_losses, hidden, features = model.read(batch, token_chunk=chunks.tokens)
    hidden_leaf, features_leaf = _leaf(hidden), _leaf(features)  # [B, T, C], [N, S, F]
    image_losses = torch.zeros(len(batch.drawn), device=hidden.device)
    weight = model.config.image_loss_weight / max(num_drawn, 1)
    size = chunks.images or max(len(batch.drawn), 1)
    for first in range(0, len(batch.drawn), size):
        which = slice(first, first + size)
        with precision():
            losses = model.image_losses(hidden_leaf, features_leaf, batch, which)
        _backward((weight * losses.sum(), None))
        image_losses[which] = losses.detach()
    text_loss = text_losses.sum() / max(num_targets, 1)
    _backward((text_loss, None), (hidden, hidden_leaf.grad), (features, features_leaf.grad))
    return Losses(text_losses.detach(), image_losses)


def _leaf(tensor: Tensor) -> Tensor:
    """The same values without their history; they need a gradient if the tensor did."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _backward(*ends: tuple[Tensor, Tensor | None]) -> None:
    """One backward from all tensors that have a history and, unless they are scalars, a gradient."""
    used = [(end, grad) for end, grad in ends if end.requires_grad and (end.ndim == 0 or grad is not None)]
    if used:
        tensors, gradients = zip(*used, strict=True)
        torch.autograd.backward(tensors, gradients)
