"""What autograd keeps between forward and backward, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from weakref import finalize

import torch
from torch import Tensor


class SavedTensors:
    """Counts the storages that graphs hold on to. A storage that several nodes keep is counted once; those that exist
    anyway, parameters above all, are not counted."""

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self._ignored = {_identity(tensor) for tensor in ignored}
        self._holders: dict[int, int] = {}  # by identity of the storage

    @contextmanager
    def counted(self) -> Iterator[SavedTensors]:
        """Inside, what is saved counts until its graph lets go of it."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            yield self

    def _pack(self, tensor: Tensor) -> _Saved:
        saved, identity, size = _Saved(tensor), _identity(tensor), tensor.untyped_storage().nbytes()
        if identity not in self._ignored:
            self._change(identity, size, 1)
            finalize(saved, self._change, identity, size, -1)
        return saved

    def _change(self, identity: int, size: int, by: int) -> None:
        before = self._holders.get(identity, 0)
        self._holders[identity] = before + by
        if before == 0:
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        elif before + by == 0:
            self.live_bytes -= size


class _Saved:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _identity(tensor: Tensor) -> int:
    """Of the storage, as long as it lives; tensors without data have one too."""
    return tensor.untyped_storage()._cdata


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor
