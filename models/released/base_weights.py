"""Weights that a converted model shares with the pre-trained parts it was built on, and takes from snapshots of them.

`base.json` names local Hugging Face snapshots and, for each tensor taken from one, its name there and the type that it
is rounded to. A tensor can be split: its first rows are from the snapshot, the rest, such as added tokens, is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.atomic_files import write_atomically
from models.json_files import read_json_object
from models.loading_options import DTYPES
from models.tensor_files import read_tensors, weight_files

BASE_FILE = "base.json"


@dataclass(frozen=True)
class SnapshotLayout:
    """How Hugging Face stores a pre-trained component of the model."""

    prefix: str
    """Our names of its tensors start with this; the rest is the snapshot's name."""

    wrapped: str = ""
    """Prefix of the snapshot's names if the part was saved inside a larger model; our names do not have it."""

    folder: str = "."
    """Where in a snapshot its weights are."""

    renamed: tuple[tuple[str, str], ...] = ()
    """Pieces of names in old snapshots, and what they are called now."""


SNAPSHOT_LAYOUTS = {
    "language_model": SnapshotLayout("language_model.host."),
    "vision_encoder": SnapshotLayout("visual_tokenizer.adapter.vision_model.", wrapped="vision_model."),
    "image_decoder": SnapshotLayout(
        "image_decoder.codec.vae.",
        folder="vae",
        renamed=((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")),
    ),
}
"""The frozen components (paper 4). In the image decoder only the VAE is frozen; its U-Net is trained."""


@dataclass(frozen=True)
class Borrowed:
    """A tensor that a snapshot provides."""

    theirs: str
    """Its name there."""

    dtype: str
    """The dtype, by torch's name, that it is rounded to, so that it equals the checkpoint's."""

    num_rows: int | None = None
    """How many of our first rows are from the snapshot; the model's own files hold the others. None: all."""

    def numbers(self, tensor: Tensor) -> Tensor:
        """The snapshot's tensor as the checkpoint had it."""
        return tensor.to(getattr(torch, self.dtype))


@dataclass(frozen=True)
class Base:
    """A snapshot and what is taken from it."""

    directory: Path
    tensors: dict[str, Borrowed]
    """By our name."""


class Snapshot:
    """The tensors of one component in a local Hugging Face snapshot, under our names.

    Raises:
        FileNotFoundError: the directory holds no weights of this component.
    """

    def __init__(self, component: str, directory: Path) -> None:
        self.layout = SNAPSHOT_LAYOUTS[component]
        self.directory = directory
        self.files = weight_files(directory / self.layout.folder)

    def tensors(self) -> Iterator[tuple[str, str, Tensor, Path]]:
        """(our name, its name, tensor, its file), file by file."""
        for file in self.files:
            for theirs, tensor in read_tensors(file).items():
                name = theirs.removeprefix(self.layout.wrapped)
                for before, now in self.layout.renamed:
                    name = name.replace(before, now)
                yield self.layout.prefix + name, theirs, tensor, file


def borrow(ours: Tensor, theirs: str, tensor: Tensor) -> Borrowed | None:
    """How `ours`, a tensor of the checkpoint, is made from a snapshot's that is called `theirs`; None if the two
    differ in any number.

    A checkpoint that was trained in half precision holds its frozen parts rounded, whatever type it is stored in.
    """
    if tensor.ndim != ours.ndim or tensor.shape[1:] != ours.shape[1:] or len(tensor) > len(ours):
        return None
    shared = ours[: len(tensor)]
    for rounding in dict.fromkeys((ours.dtype, torch.float16, torch.bfloat16)):
        if torch.equal(tensor.to(rounding).to(ours.dtype), shared):
            num_rows = len(tensor) if len(tensor) < len(ours) else None
            return Borrowed(theirs, str(rounding).removeprefix("torch."), num_rows)
    return None


def save_base(file: Path, base: Mapping[str, Base]) -> None:
    """Write `base.json`."""
    plain = {
        component: {
            "directory": str(one.directory),
            "tensors": {name: asdict(borrowed) for name, borrowed in one.tensors.items()},
        }
        for component, one in base.items()
    }
    write_atomically(file, json.dumps(plain, indent=1) + "\n")


def load_base(file: Path) -> dict[str, Base]:
    """Read `base.json`, by component.

    Raises:
        ValueError: the file is damaged or of another form, or names a component that `SNAPSHOT_LAYOUTS` does not.
    """
    plain = read_json_object(file)
    if unknown := sorted(plain.keys() - SNAPSHOT_LAYOUTS.keys()):
        raise ValueError(
            f"{file} names {unknown}; expected some of {sorted(SNAPSHOT_LAYOUTS)}. Earlier versions wrote 'vision' for "
            "'vision_encoder' and 'diffusion' for 'image_decoder': rename them in the file."
        )
    try:
        return {
            component: Base(
                Path(one["directory"]), {name: _borrowed(borrowed) for name, borrowed in one["tensors"].items()}
            )
            for component, one in plain.items()
        }
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file} is of another form ({type(error).__name__}: {error}). Convert the model again."
        ) from error


def _borrowed(values: dict[str, Any]) -> Borrowed:
    borrowed = Borrowed(**values)
    if not isinstance(borrowed.theirs, str) or borrowed.dtype not in DTYPES:
        raise ValueError(f"a tensor {borrowed.theirs!r} of type {borrowed.dtype!r}")
    if borrowed.num_rows is not None and (type(borrowed.num_rows) is not int or borrowed.num_rows < 1):
        raise ValueError(f"{borrowed.num_rows!r} rows of {borrowed.theirs!r}")
    return borrowed
