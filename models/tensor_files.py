"""Files of tensors: safetensors and PyTorch's own, read without loading them, written whole or not at all."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from models.atomic_files import UNFINISHED, put_in_place
from models.json_files import read_json_object, shortened, write_json
from models.safetensors_writer import Tensors, gather_tensors, write_safetensors
from models.write_errors import writing

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"

STEMS = (WEIGHTS_FILE, "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.bin")
"""What transformers and diffusers call the weights of a model, in the order in which they are looked for."""


def weight_files(directory: Path) -> list[Path]:
    """The files with the weights of a transformers, diffusers or MM-Interleaved model, in one piece or sharded.

    Raises:
        FileNotFoundError: the directory holds no weights, or not all shards that its index names.
        ValueError: the index is damaged.
    """
    for stem in STEMS:
        index = directory / f"{stem}.index.json"
        if (directory / stem).is_file():
            return [directory / stem]
        if index.is_file():
            files = [directory / name for name in sorted(set(_weight_map(index).values()))]
            if lacking := [file.name for file in files if not file.is_file()]:
                raise FileNotFoundError(
                    f"{directory} lacks {len(lacking)} of the {len(files)} files that {index.name} names {lacking[:3]}."
                )
            return files
    raise FileNotFoundError(f"{directory} holds no weights. Expected one of {', '.join(STEMS)}, or its .index.json.")


def _weight_map(index: Path) -> dict[str, str]:
    """File by name of tensor, of an index. Raises ValueError if it is of another form, or names a file elsewhere."""
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} has no weight_map of file by name of tensor. Fetch or make it again.")
    for file in places.values():
        own_kind = (
            isinstance(file, str) and PurePosixPath(file).suffix == PurePosixPath(index.name.split(".index")[0]).suffix
        )
        if not own_kind or PurePosixPath(file).name != file or "\0" in file:
            raise ValueError(f"{index} names {shortened(file)}; expected files of weights beside it. Fetch it again.")
    return places


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, mapped into memory: numbers are read from disk when they are used.

    Raises:
        ValueError: the file is damaged, or holds anything but named tensors; pickles that need code are not run.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, KeyError, RuntimeError, OSError) as error:  # KeyError: a type that PyTorch lacks
            raise ValueError(f"{file} is not a complete safetensors file ({error}). Fetch or make it again.") from error
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} {_why_no_zip(file)}")
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds more than weights, and reading it would run code that came with it. Expected a dictionary "
            "of tensors; if it is not part of the checkpoint, move it out of the directory."
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"{file} can't be read as a PyTorch file ({_first_line(error)}). Fetch it again.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds a {type(content).__name__}; expected a dictionary of tensors.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{file} holds {name!r}, a {type(value).__name__}; expected nothing but tensors. Save the state dict "
                "alone."
            )
    return dict(content)


def read_rows(file: Path, name: str, first: int, last: int) -> Tensor:
    """Rows of a tensor of a file that `read_tensors` has looked at. Of a safetensors file they alone are read, and into
    memory of their own: a mapped file would count as memory of the process as far as it was read.

    Args:
        file: which.
        name: of the tensor; one without dimensions is its only row.
        first: the first row.
        last: the row after the last one.
    """
    if file.suffix != ".safetensors":
        tensor = read_tensors(file)[name]
        return tensor[first:last] if tensor.ndim else tensor
    with safe_open(file, framework="pt", backend="pread") as opened:
        rows = opened.get_slice(name)
        return rows[first:last] if rows.get_shape() else opened.get_tensor(name)


def _why_no_zip(file: Path) -> str:
    with file.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"PK"):
        return f"is cut off: it ends after {file.stat().st_size} bytes, before its table of contents. Fetch it again."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the file itself. Fetch the file: git lfs pull"
    return (
        "is not a PyTorch file of version 1.6 or later (a zip archive). If an older PyTorch wrote it, load it there "
        "and save it again."
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def fingerprint(file: Path) -> dict[str, int | str]:
    """Identifies a file without reading its numbers: its size, and a digest of its table of contents. In a PyTorch
    file, that table has a checksum of every tensor."""
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            contents = stream.read(int.from_bytes(stream.read(8), "little"))
    else:
        with zipfile.ZipFile(file) as archive:
            contents = repr([(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()]).encode()
    return {"bytes": file.stat().st_size, "contents_sha256": hashlib.sha256(contents).hexdigest()}


def damaged_record(file: Path) -> str | None:
    """The first part of a PyTorch file that differs from the checksum written with it; None if there is none. Reads the
    whole file."""
    with zipfile.ZipFile(file) as archive:
        return archive.testzip()


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's numbers, as they lie in memory."""
    numbers = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(numbers.data).hexdigest()


def write_tensors(file: Path, tensors: Tensors, *, is_main_process: bool = True) -> None:
    """Write a safetensors file, tensor by tensor: it is complete or missing.

    Args:
        file: which.
        tensors: by name. Where some are sharded, all processes have to call this with theirs.
        is_main_process: whether this one writes; the others only give their parts.

    Raises:
        WriteError: the disk is full, say.
    """
    if not is_main_process:
        gather_tensors(tensors)
        return
    unfinished = file.with_name(file.name + UNFINISHED)
    with writing(file, _num_bytes(tensors)):
        try:
            with unfinished.open("wb") as stream:
                write_safetensors(stream, tensors)
            put_in_place(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)


def _num_bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def write_shards(directory: Path, tensors: Tensors, max_shard_size: int | str) -> None:
    """Write tensors as safetensors files of a limited size with an index; as one file if they fit into one.

    The index is written last, and only then earlier weights are removed: an interrupted call leaves either the earlier
    weights or the new ones.

    Args:
        directory: where `model-*.safetensors` or `model.safetensors` go.
        tensors: by name.
        max_shard_size: of a file, in bytes or as a text such as "5GB"; a tensor that is larger has a file of its own.

    Raises:
        ValueError: `max_shard_size` is no such text.
        WriteError: the disk is full, say.
    """
    try:
        split = split_state_dict_into_shards_factory(
            dict(tensors),
            get_storage_size=lambda tensor: tensor.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise ValueError(
            f"max_shard_size is {max_shard_size!r}; expected a number of bytes, or a text such as '5GB'. {error}"
        ) from error
    if not split.is_sharded:
        write_tensors(directory / WEIGHTS_FILE, tensors)
        return
    index = directory / INDEX_FILE
    before = set(_weight_map(index).values()) if index.is_file() else set()
    written = [directory / (file + UNFINISHED) for file in split.filename_to_tensors]
    try:
        for file, names in split.filename_to_tensors.items():
            shard = {name: tensors[name] for name in names}
            with writing(directory / file, _num_bytes(shard)), (directory / (file + UNFINISHED)).open("wb") as stream:
                write_safetensors(stream, shard)
        for unfinished in written:
            final = unfinished.with_name(unfinished.name.removesuffix(UNFINISHED))
            with writing(final):
                put_in_place(unfinished, final)
    finally:
        for unfinished in written:
            unfinished.unlink(missing_ok=True)
    write_json(index, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    for old in (WEIGHTS_FILE, *sorted(before - split.filename_to_tensors.keys())):
        (directory / old).unlink(missing_ok=True)
