"""The files of a released checkpoint: what they hold, whether they are complete, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.mm_interleaved import MMInterleaved
from models.released.names import Place, our_layout, places, recomputed
from models.tensor_files import damaged_record, read_tensors


@dataclass(frozen=True)
class Entry:
    """One tensor of the checkpoint, without its numbers."""

    file: Path
    shape: torch.Size
    dtype: torch.dtype


class ReleasedCheckpoint:
    """PyTorch files of tensors under the released names: all `*.bin` of a directory, or one file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged, holds anything but tensors, or holds a tensor that another holds too.
    """

    def __init__(self, source: Path) -> None:
        self.files = [source] if source.is_file() else sorted(source.glob("*.bin"))
        if not self.files:
            raise FileNotFoundError(f"{source} holds no *.bin. Expected the directory of the released weights.")
        self.entries: dict[str, Entry] = {}
        for file in self.files:
            for name, tensor in read_tensors(file).items():
                if name in self.entries:
                    raise ValueError(
                        f"{name} is in {self.entries[name].file.name} and in {file.name}; which one counts is unclear. "
                        "Leave one checkpoint in the directory."
                    )
                self.entries[name] = Entry(file, tensor.shape, tensor.dtype)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(released name, tensor), file by file; only one file is mapped into memory."""
        for file in self.files:
            yield from read_tensors(file).items()

    def places_in(self, model: MMInterleaved) -> dict[str, Place]:
        """Where each tensor goes in a model, by released name. Reads only what the model would compute itself.

        Raises:
            ValueError: names, shapes, kinds of numbers or computed tensors are not the model's.
        """
        found = places(self.entries, model)
        for name, place in found.items():
            entry = self.entries[name]
            if not entry.dtype.is_floating_point:
                raise ValueError(
                    f"{name} in {entry.file.name} is {str(entry.dtype).removeprefix('torch.')}; expected a floating-"
                    "point type. Quantised weights have no place here: start from the checkpoint before quantisation."
                )
            our_layout(name, torch.empty(entry.shape, device="meta"), place.layout, place.shape)
        self._check_recomputed(recomputed(model))
        return found

    def _check_recomputed(self, computed: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors():
            if name not in computed:
                continue
            if tensor.shape != computed[name].shape:
                raise ValueError(
                    f"{name} is {list(tensor.shape)}; the model computes {list(computed[name].shape)}. Give the "
                    "configuration that it was trained with: --config FILE"
                )
            error = float((tensor.double() - computed[name].double()).abs().max())
            # Sines and cosines; a half type stores them rounded.
            allowed = max(1e-5, torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else 0.0
            if not error <= allowed:
                raise ValueError(
                    f"{name} differs by {error:.1e} from what the model computes in its place (allowed: "
                    f"{allowed:.1e}), so the converted model would not be the same. Give the configuration that it was "
                    "trained with: --config FILE"
                )

    def check_undamaged(self) -> None:
        """Read every file and compare it with the checksums written in it.

        Raises:
            ValueError: the first file that is damaged.
        """
        for file in self.files:
            if record := damaged_record(file):
                raise ValueError(f"{file} is damaged: {record} does not have the checksum it had. Fetch it again.")
