"""Whether a call of an op has to go through PyTorch's dispatcher, which takes longer than a small call computes.

The dispatcher tells others of the call: a compiler or exporter, a mode, a subclass of Tensor, a transform of
torch.func, forward mode, a profiler. A call that nobody else has to hear of can go to the implementation at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _profiler_enabled

from mmfs.derivatives import forward_mode

is_batched = torch._C._functorch.is_legacy_batchedtensor
"""Whether `torch.autograd.grad(is_grads_batched=True)` made the tensor, whose transform nothing else tells of."""


def is_needed(tensors: Iterable[Any]) -> bool:
    """Whether anything but autograd has to hear of a call with these tensors (None: one that is not given)."""
    # Asked before each call, so PyTorch is asked what its own functions ask, one level below them.
    if (
        torch.compiler.is_compiling()
        or forward_mode()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._is_tracing()
        or _profiler_enabled()
    ):
        return True
    for tensor in tensors:
        kind = type(tensor)
        if kind is not Tensor and kind is not nn.Parameter:
            if tensor is not None:
                return True
        elif tensor.is_neg() or is_batched(tensor):  # its memory holds other numbers, or it has none
            return True
    return False
