"""A model without its large weights: tracing needs only their shapes, and where they are on disk.

Large tensors are allocated and never written (`models/uninitialized.py`), so that their pages take no memory; a graph
that is traced from such a model points to their numbers in the checkpoint. Smaller ones are read, because the exporter
computes with some of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from models import MMInterleaved
from models.model_directory import open_model_directory
from models.uninitialized import is_large, uninitialized


@dataclass(frozen=True)
class Stored:
    """Where the numbers of a tensor are."""

    file: Path
    offset: int
    length: int
    """In bytes, from the start of the file."""

    dtype: str
    """As safetensors calls it: F32, F16 or BF16."""


@torch.no_grad()
def open_meta_model(directory: Path) -> tuple[MMInterleaved, dict[int, Stored]]:
    """The model of a directory in float32, in evaluation mode, and where its large tensors are, by address.

    Numbers that are not in a safetensors file as they are (of a snapshot, in another order, or pickled) are read.

    Raises:
        FileNotFoundError, ValueError: as MMInterleaved.from_pretrained.
    """
    opened = open_model_directory(directory)
    weights, model = opened.weights, uninitialized(lambda: MMInterleaved(opened.config, opened.processor))
    expected = model.state_dict()
    places = {name: place for file in weights.files for name, place in _places(file).items()}
    stored = {}
    for piece in weights.pieces():
        target, place = expected[piece.name], places.get(piece.name)
        is_whole = piece.borrowed is None and piece.stored.shape == target.shape
        if is_large(target) and place is not None and is_whole:
            stored[target.data_ptr()] = place
        else:
            piece.put(target)
    return model.eval(), stored


def _places(file: Path) -> dict[str, Stored]:
    """Of every tensor in a safetensors file, from its table of contents; none of any other file."""
    if file.suffix != ".safetensors":
        return {}
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        contents = json.loads(stream.read(start - 8))
    contents.pop("__metadata__", None)
    return {
        name: Stored(file.resolve(), start + first, last - first, entry["dtype"])
        for name, entry in contents.items()
        for first, last in [entry["data_offsets"]]
    }
