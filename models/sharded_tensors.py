"""Tensors of which each process of a run may hold a part."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, as a plain one; a collective where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
