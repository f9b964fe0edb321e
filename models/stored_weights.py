"""The weights of a model directory, one file at a time: its own, and those that `base.json` takes from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from models.released.base_weights import BASE_FILE, Borrowed, Snapshot, load_base
from models.tensor_files import WEIGHTS_FILE, read_rows, read_tensors, weight_files


@dataclass(frozen=True, eq=False)
class Piece:
    """One of the model's tensors, or some rows of it; the numbers are still on disk."""

    name: str
    first_row: int
    stored: Tensor
    file: Path
    theirs: str
    """Its name in the file."""

    borrowed: Borrowed | None = None

    def put(self, target: Tensor) -> None:
        """Copy the numbers to their place in the model's tensor of this name, in its dtype."""
        numbers = self.stored if self.borrowed is None else self.borrowed.numbers(self.stored)
        place = target if numbers.shape == target.shape else target[self.first_row : self.first_row + len(numbers)]
        place.copy_(numbers)


@dataclass(frozen=True)
class _Place:
    """Some rows of a tensor, as they lie in a file."""

    file: Path
    theirs: str
    first_row: int
    num_rows: int
    borrowed: Borrowed | None


class StoredWeights:
    """Reads a model directory that `MMInterleaved.save_pretrained` or `python -m models.convert` wrote.

    Args:
        directory: the model directory.
        base: where snapshots are now, by component, if they are not where `base.json` says.

    Raises:
        FileNotFoundError: a file or a snapshot is not there.
        ValueError: `base` names a component that this model does not take from a snapshot.
    """

    def __init__(self, directory: Path, base: Mapping[str, str | Path] | None = None) -> None:
        self.files = weight_files(directory)
        # save_pretrained writes all weights: a base.json beside its files belongs to earlier shards.
        sharded = self.files != [directory / WEIGHTS_FILE] and (directory / BASE_FILE).is_file()
        self.base = load_base(directory / BASE_FILE) if sharded else {}
        elsewhere = dict(base or {})
        if unknown := sorted(elsewhere.keys() - self.base.keys()):
            raise ValueError(f"base has {unknown}; of snapshots, {directory} needs those of {sorted(self.base)}.")
        self.snapshots: dict[str, Snapshot] = {}
        for component, taken in self.base.items():
            try:
                self.snapshots[component] = Snapshot(component, Path(elsewhere.get(component, taken.directory)))
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{directory} takes weights of its {component} from a snapshot. {error} If it is elsewhere now, "
                    f"say where: MMInterleaved.from_pretrained(directory, base={{{component!r}: ...}})."
                ) from error

    def pieces(self) -> Iterator[Piece]:
        """All of it, file by file."""
        borrowed_rows = {
            name: borrowed.num_rows or 0 for taken in self.base.values() for name, borrowed in taken.tensors.items()
        }
        for file in self.files:
            for name, tensor in read_tensors(file).items():
                yield Piece(name, borrowed_rows.get(name, 0), tensor, file, name)
        for component, snapshot in self.snapshots.items():
            taken = self.base[component].tensors
            for name, theirs, tensor, file in snapshot.tensors():
                if name in taken and taken[name].theirs == theirs:
                    yield Piece(name, 0, tensor, file, theirs, taken[name])

    def copy_rows(self, name: str, target: Tensor, first_row: int = 0) -> None:
        """Read some rows of a tensor, and nothing else of it: those from `first_row` on, as many as `target` has, in
        its dtype. A tensor without dimensions has one row."""
        last_row = first_row + (len(target) if target.ndim else 1)
        for place in self._places[name]:
            first, last = max(first_row, place.first_row), min(last_row, place.first_row + place.num_rows)
            if first < last:
                numbers = read_rows(place.file, place.theirs, first - place.first_row, last - place.first_row)
                if place.borrowed is not None:
                    numbers = place.borrowed.numbers(numbers)
                (target[first - first_row : last - first_row] if target.ndim else target).copy_(numbers)

    @cached_property
    def _places(self) -> dict[str, list[_Place]]:
        """By name, where the rows of a tensor are."""
        places: dict[str, list[_Place]] = {}
        for piece in self.pieces():
            num_rows = len(piece.stored) if piece.stored.ndim else 1
            place = _Place(piece.file, piece.theirs, piece.first_row, num_rows, piece.borrowed)
            places.setdefault(piece.name, []).append(place)
        return places

    @cached_property
    def _headers(self) -> tuple[dict[str, list[int]], dict[str, list[torch.dtype]]]:
        """By name the shape, put together, and the dtype of each piece: all files are opened once for it."""
        shapes: dict[str, list[int]] = {}
        dtypes: dict[str, list[torch.dtype]] = {}
        for piece in self.pieces():
            rows = shapes[piece.name][0] if piece.name in shapes else 0
            shape = list(piece.stored.shape)
            shapes[piece.name] = [rows + shape[0], *shape[1:]] if shape else []
            dtypes.setdefault(piece.name, []).append(piece.stored.dtype)
        return shapes, dtypes

    def shapes(self) -> dict[str, list[int]]:
        """The shape of every tensor, put together; reads no numbers."""
        return self._headers[0]

    def check_fit(self, expected: Mapping[str, Tensor]) -> None:
        """Look whether these are the weights of a model; reads no numbers.

        Args:
            expected: the model's tensors by name.

        Raises:
            ValueError: names or shapes differ, or numbers are whole ones where fractions belong.
        """
        shapes = self.shapes()
        missing, unknown = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
        wrong = sorted(k for k in expected.keys() & shapes.keys() if list(expected[k].shape) != shapes[k])
        if missing or unknown or wrong:
            raise ValueError(
                f"{self.files[0]} does not fit the configuration beside it: {len(missing)} keys are missing "
                f"{missing[:3]}, {len(unknown)} are unknown {unknown[:3]}, {len(wrong)} have another shape {wrong[:3]}."
                " Give the configuration that they were saved with."
            )
        for name, dtypes in self._headers[1].items():
            for dtype in dtypes:
                if dtype.is_floating_point != expected[name].is_floating_point():
                    raise ValueError(
                        f"{name!r} in the weights of {self.files[0].parent} is {dtype}; expected numbers like "
                        f"{expected[name].dtype}. Quantised weights have no place here."
                    )

    def dtype(self, of: Callable[[str], bool]) -> torch.dtype | None:
        """The float type that most numbers are stored in, of the tensors whose names `of` is true for; None: there are
        none."""
        numbers: Counter[torch.dtype] = Counter()
        for piece in self.pieces():
            if piece.stored.is_floating_point() and of(piece.name):
                numbers[piece.stored.dtype] += piece.stored.numel()
        return numbers.most_common(1)[0][0] if numbers else None
