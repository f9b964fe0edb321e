"""One conversion of released weights: what goes where, the writing of it, and the comparison afterwards."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.atomic_files import UNFINISHED, write_atomically
from models.config import CONFIG_FILE, MMInterleavedConfig
from models.digests import write_digests
from models.directory_lock import LOCK_FILE, directory_lock
from models.json_files import read_json_object
from models.mm_interleaved import MMInterleaved
from models.processor import MMInterleavedProcessor
from models.released.base_weights import BASE_FILE, Base, Borrowed, Snapshot, borrow, load_base, save_base
from models.released.checkpoint import ReleasedCheckpoint
from models.released.dtype import DType
from models.released.names import Place, our_layout
from models.tensor_files import INDEX_FILE, checksum, fingerprint, read_tensors, write_tensors

CONVERSION_FILE = "conversion.json"


@dataclass(frozen=True)
class Shard:
    """A file of the output."""

    file: str
    source: str
    """The released file that all of it is from."""

    tensors: list[str]
    """Released names."""

    num_bytes: int


@dataclass(frozen=True)
class Conversion:
    """What `conversion.json` holds."""

    request: dict[str, Any]
    """The source and the options. Shards are kept only for the same request."""

    shards: list[Shard]
    recomputed: list[str]
    """Released tensors that are left out, since the model computes them."""

    differing: dict[str, list[str]] = field(default_factory=dict)
    """By component, our names of tensors that differ from those of the snapshot and are therefore stored."""

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        write_atomically(file, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Conversion:
        """Read what `save` wrote. Raises ValueError if it is damaged or of another form."""
        plain = read_json_object(file)
        try:
            found = cls(**{**plain, "shards": [Shard(**shard) for shard in plain["shards"]]})
            names = [name for shard in found.shards for name in (shard.file, shard.source)]
            if not isinstance(found.request, dict) or any(Path(name).name != name for name in names):
                raise ValueError("it names a file that is not beside it")
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{file} is of another form ({type(error).__name__}: {error}). Name a new directory with --out."
            ) from error
        return found


class Converter:
    """One conversion; checks everything before anything is written.

    Args:
        source: the directory with the released `*.bin` files, or one such file.
        out: where the model goes: a new or empty directory, or one where the same conversion was interrupted.
        config: the model's configuration.
        dtype: of the converted weights.
        base: by component, directories of local Hugging Face snapshots to take unchanged weights from.
        max_shard_bytes: size of an output file, unless a single tensor is larger.
        processor: saved beside the weights, if given.
        progress: called with lines that say what was done and how long the rest takes.

    Raises:
        FileNotFoundError: `source` or a snapshot holds no weights.
        ValueError: the checkpoint is damaged or not of this configuration, `out` holds something else, or a snapshot
            has nothing in common with the checkpoint.
    """

    def __init__(
        self,
        source: Path,
        out: Path,
        *,
        config: MMInterleavedConfig,
        dtype: DType = "source",
        base: Mapping[str, Path] | None = None,
        max_shard_bytes: int = 2_000_000_000,
        processor: MMInterleavedProcessor | None = None,
        progress: Callable[[str], None] = print,
    ) -> None:
        self.out, self.processor, self.progress = out, processor, progress
        self.config = config
        self.dtype = None if dtype == "source" else getattr(torch, dtype)
        self.checkpoint = ReleasedCheckpoint(source)
        self.snapshots = {
            component: Snapshot(component, directory.resolve()) for component, directory in (base or {}).items()
        }
        request = {
            "source": {file.name: fingerprint(file) for file in self.checkpoint.files},
            "dtype": dtype,
            "base": {
                component: {
                    "directory": str(one.directory),
                    "files": {file.name: fingerprint(file) for file in one.files},
                }
                for component, one in self.snapshots.items()
            },
            "max_shard_bytes": max_shard_bytes,
            "config": self.config.to_dict(),
        }
        self.request = request
        begun = self._begun()
        progress(f"{len(self.checkpoint.entries)} tensors in {len(self.checkpoint.files)} files; checking them")
        with torch.device("meta"):
            model = MMInterleaved(self.config)
        self.places = self.checkpoint.places_in(model)
        if begun is not None:
            self.conversion, self.base = begun, load_base(out / BASE_FILE) if self.snapshots else {}
        else:
            self.base, differing = self._compare_with_snapshots()
            self.conversion = Conversion(
                request,
                self._plan(max_shard_bytes),
                sorted(self.checkpoint.entries.keys() - self.places.keys()),
                differing,
            )

    def _begun(self) -> Conversion | None:
        """The conversion that `out` holds some or all of; None if it is new or empty."""
        if self.out.is_dir():
            there = {path.name for path in self.out.iterdir()}
        elif self.out.exists():
            raise ValueError(f"{self.out} is a file. Name a directory with --out.")
        else:
            there = set()
        # Shards older than conversion.json are written again.
        if there <= {LOCK_FILE, BASE_FILE, BASE_FILE + UNFINISHED, CONVERSION_FILE + UNFINISHED}:
            return None
        if not (self.out / CONVERSION_FILE).is_file():
            raise ValueError(
                f"{self.out} is not empty and holds no {CONVERSION_FILE}. Name a new directory with --out."
            )
        begun = Conversion.load(self.out / CONVERSION_FILE)
        if changed := [name for name, value in self.request.items() if begun.request.get(name) != value]:
            raise ValueError(
                f"{self.out} holds another conversion: {', '.join(changed)} is not what it was. Repeat the command "
                "that it was begun with, or name a new directory with --out."
            )
        return begun

    def _compare_with_snapshots(self) -> tuple[dict[str, Base], dict[str, list[str]]]:
        released = {place.name: name for name, place in self.places.items()}
        base: dict[str, Base] = {}
        differing: dict[str, list[str]] = {}
        for component, snapshot in self.snapshots.items():
            theirs = {name: (key, tensor) for name, key, tensor, _ in snapshot.tensors() if name in released}
            clock = Clock(sum(tensor.nbytes for _, tensor in theirs.values()))
            taken: dict[str, Borrowed] = {}
            other: list[str] = []
            for file in self.checkpoint.files:
                compared = 0
                for name, tensor in self._tensors_in(file):
                    ours = self.places[name].name
                    if ours not in theirs:
                        continue
                    key, candidate = theirs[ours]
                    borrowed = borrow(self._in_our_layout(name, tensor), key, candidate)
                    if borrowed is None:
                        other.append(ours)
                    else:
                        taken[ours] = borrowed
                    compared += candidate.nbytes
                self.progress(f"{file.name} compared with {snapshot.directory}: {clock.after(compared)}")
            if not taken:
                raise ValueError(
                    f"{snapshot.directory} has {len(theirs)} tensors with names of the {component}, and none with the "
                    "same numbers; it is not what the checkpoint was built on. Name another snapshot, or none."
                )
            base[component], differing[component] = Base(snapshot.directory, taken), sorted(other)
            self.progress(
                f"{component}: {len(taken)} tensors are the snapshot's; {len(other)} differ and are stored {other[:3]}"
            )
        return base, differing

    def _tensors_in(self, file: Path) -> Iterator[tuple[str, Tensor]]:
        """(released name, tensor) of a released file, without what the model computes."""
        return ((name, tensor) for name, tensor in read_tensors(file).items() if name in self.places)

    def _first_row(self, place: Place) -> int | None:
        """The first row that is stored of a tensor: 0, or the first that its snapshot lacks. None: no row."""
        for base in self.base.values():
            if place.name in base.tensors:
                return base.tensors[place.name].num_rows
        return 0

    def _plan(self, max_shard_bytes: int) -> list[Shard]:
        """Shards of one source file each."""
        groups: list[tuple[Path, list[str], int]] = []
        for name, place in self.places.items():
            entry, first_row = self.checkpoint.entries[name], self._first_row(place)
            if first_row is None:
                continue
            rows = place.shape[0] - first_row if place.shape else 1
            num_bytes = rows * place.shape[1:].numel() * (self.dtype or entry.dtype).itemsize
            if groups and groups[-1][0] == entry.file and groups[-1][2] + num_bytes <= max_shard_bytes:
                file, names, size = groups[-1]
                groups[-1] = (file, [*names, name], size + num_bytes)
            else:
                groups.append((entry.file, [name], num_bytes))
        return [
            Shard(f"model-{i:05d}-of-{len(groups):05d}.safetensors", file.name, names, size)
            for i, (file, names, size) in enumerate(groups, start=1)
        ]

    def _in_our_layout(self, name: str, tensor: Tensor) -> Tensor:
        place = self.places[name]
        return our_layout(name, tensor, place.layout, place.shape)

    def _converted(self, shard: Shard) -> Iterator[tuple[str, Tensor]]:
        """(our name, tensor) of a shard, as it is stored."""
        tensors = read_tensors(next(file for file in self.checkpoint.files if file.name == shard.source))
        for name in shard.tensors:
            tensor = self._in_our_layout(name, tensors[name])
            if first_row := self._first_row(self.places[name]):
                tensor = tensor[first_row:]
            # A copy: tensors of the release may share memory, which safetensors does not write.
            yield self.places[name].name, tensor.to(self.dtype or tensor.dtype, copy=True)

    def run(self) -> None:
        """Write the shards that are missing.

        Raises:
            ValueError: the disk has too little room, or another process writes into `out`, or has begun another
                conversion there.
            WriteError: the disk is full, say. What is complete stays, and the same conversion goes on.
        """
        need = sum(shard.num_bytes for shard in self.conversion.shards if not (self.out / shard.file).is_file())
        existing = next(path for path in (self.out.absolute(), *self.out.absolute().parents) if path.exists())
        if (free := shutil.disk_usage(existing).free) < need:
            raise ValueError(f"{self.out} needs {need / 1e9:.1f} GB more, and its disk has {free / 1e9:.1f} GB left.")
        self.out.mkdir(parents=True, exist_ok=True)
        with directory_lock(self.out):
            self._begun()  # again: another process may have begun another one meanwhile
            self._write(self.conversion.shards)

    def _write(self, shards: list[Shard]) -> None:
        todo = [shard for shard in shards if not (self.out / shard.file).is_file()]
        for left_over in self.out.glob(f"*{UNFINISHED}"):
            left_over.unlink()
        if self.base:
            save_base(self.out / BASE_FILE, self.base)
        self.conversion.save(self.out / CONVERSION_FILE)
        if len(todo) < len(shards):
            self.progress(f"{len(shards) - len(todo)} of {len(shards)} shards are there already")
        clock = Clock(sum(shard.num_bytes for shard in todo))
        for shard in todo:
            write_tensors(self.out / shard.file, dict(self._converted(shard)))
            self.progress(f"{shard.file}: {clock.after(shard.num_bytes)}")
        self.config.save(self.out / CONFIG_FILE)
        if self.processor is not None:
            self.processor.save_pretrained(self.out)
        names = {self.places[name].name: shard.file for shard in shards for name in shard.tensors}
        index = {"metadata": {"total_size": sum(shard.num_bytes for shard in shards)}, "weight_map": names}
        write_atomically(self.out / INDEX_FILE, json.dumps(index, indent=1) + "\n")
        write_digests(self.out)

    def verify(self) -> int:
        """Compare checksums: of the source files with those written in them, of each converted tensor with the source
        in the converted layout and type, and of each tensor of a snapshot with the source. Returns how many tensors.

        Raises:
            ValueError: something differs; the message names the first tensors.
        """
        self.checkpoint.check_undamaged()
        clock = Clock(sum(shard.num_bytes for shard in self.conversion.shards))
        different: list[str] = []
        num_compared = 0
        for shard in self.conversion.shards:
            stored = read_tensors(self.out / shard.file)
            for name, tensor in self._converted(shard):
                num_compared += 1
                if name not in stored or checksum(stored[name]) != checksum(tensor):
                    different.append(name)
            self.progress(f"{shard.file}: {clock.after(shard.num_bytes)}")
        for component, base in self.base.items():
            theirs = {
                name: tensor
                for name, key, tensor, _ in self.snapshots[component].tensors()
                if name in base.tensors and base.tensors[name].theirs == key
            }
            for file in self.checkpoint.files:
                for name, tensor in self._tensors_in(file):
                    ours = self.places[name].name
                    if borrowed := base.tensors.get(ours):
                        num_compared += borrowed.num_rows is None
                        source = self._in_our_layout(name, tensor)[: borrowed.num_rows]
                        now = borrowed.numbers(theirs[ours]).to(source.dtype) if ours in theirs else None
                        if now is None or checksum(now) != checksum(source):
                            different.append(ours)
            self.progress(f"{component}: compared with {self.snapshots[component].directory}")
        if different:
            raise ValueError(
                f"{len(different)} of {num_compared} tensors in {self.out} differ from the source {different[:3]}. "
                "Convert again, to a new directory."
            )
        return num_compared


class Clock:
    """How long the rest takes, from the bytes done so far."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.done, self.begun = num_bytes, 0, time.monotonic()

    def after(self, num_bytes: int) -> str:
        """What to say after so many bytes more."""
        self.done += num_bytes
        left_s = (time.monotonic() - self.begun) / max(self.done, 1) * (self.num_bytes - self.done)
        left = f"{left_s:.0f} s" if left_s < 120 else f"{left_s / 60:.0f} min"
        return f"{self.done / 1e9:.2f} of {self.num_bytes / 1e9:.2f} GB, {left} left"
