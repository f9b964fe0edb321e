"""Building a model whose weights are read afterwards: its large tensors are made and not filled, so that their pages
take no memory and no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LARGE_BYTES = 2**20

Model = TypeVar("Model", bound=nn.Module)


class NeverWritten(TorchDispatchMode):
    """While it is active, operators that would write into a large tensor do nothing."""

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """One operator."""
        if function._schema.is_mutable and isinstance(arguments[0], Tensor) and is_large(arguments[0]):
            return arguments[0]
        return function(*arguments, **(options or {}))


def is_large(tensor: Tensor) -> bool:
    """Whether a tensor, or what it is a view of, takes `LARGE_BYTES` or more."""
    return tensor.untyped_storage().nbytes() >= LARGE_BYTES


def uninitialized(make: Callable[[], Model]) -> Model:
    """The model that `make` returns; the values of its large weights are undefined.

    Buffers that are not among the weights (rotary frequencies, pixel statistics) have their values.
    """
    with torch.no_grad(), NeverWritten():
        model = make()
    lost = {name for name, buffer in model.named_buffers() if is_large(buffer)} - model.state_dict().keys()
    assert not lost, f"{lost} are computed, so they have to be smaller than {LARGE_BYTES} bytes"
    return model
