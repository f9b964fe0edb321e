"""Files with a document in each row: JSON lines, plain or zipped, and parquet."""

from __future__ import annotations

import importlib
import importlib.util
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models.printable import printable
from trainer.data.sources.json_rows import COLUMNS, read_json_row
from trainer.data.sources.problems import Problems
from trainer.data.sources.regular_files import is_not_given_out
from trainer.data.sources.remote_files import open_place
from trainer.data.sources.sample import MAX_TEXT_BYTES, to_text

TABLE_SUFFIXES = (".jsonl", ".jsonl.zip", ".parquet")
MAX_EXPANSION = 1100
"""What zip's usual compression can make of a byte at most; a member that declares more is there to fill a disk."""

MAX_BATCH_BYTES = 64 << 20
"""Rows of a parquet file that are larger together become Python values one by one."""


@dataclass(frozen=True, repr=False)
class TableBytes:
    """Bytes that stand in a table, which mostly are an image."""

    data: bytes
    offset: int
    """How many bytes stand in the rows, and in the fields of its row, before it."""

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"{len(self.data):,} bytes"


def read_table(path: Path | str, problems: Problems) -> Iterator[tuple[str, Any]]:
    """The rows of a file, in their order, each with its place there; bytes in them are `TableBytes`. What cannot be
    read is passed over, with a sentence in `problems`.

    Raises:
        OSError: the system or the storage does not give out the file.
        ModuleNotFoundError: a parquet file, and pyarrow is missing.
    """
    name = str(path)
    with open_place(path) as file:
        try:
            if name.endswith(".parquet"):
                yield from _parquet(file, name, problems)
            elif name.endswith(".zip"):
                yield from _zipped_lines(file, problems)
            else:
                yield from _lines(file, "", problems)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # libraries pass on whatever a damaged file makes them run into
            if is_not_given_out(error):
                raise
            first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
            problems.end(f"the file cannot be read on: {first_line}")


def _zipped_lines(file: IO[bytes], problems: Problems) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".jsonl")]
        if not entries:
            problems.end(f"no file named *.jsonl is in it, but {[entry.filename for entry in archive.infolist()[:3]]}")
        if sum(entry.compress_size for entry in entries) > file.seek(0, 2):
            problems.end("its files declare more bytes than it has")
            return
        for entry in entries:
            name = repr(entry.filename)
            try:
                if entry.file_size > MAX_EXPANSION * max(entry.compress_size, 1):
                    raise ValueError(f"it declares {entry.file_size:,} bytes, made of {entry.compress_size:,}")
                with archive.open(entry) as lines:
                    yield from _lines(lines, f"{name} " if len(entries) > 1 else "", problems)
            except Exception as error:  # damaged, encrypted, a compression that nobody knows; the next one may be whole
                if is_not_given_out(error):
                    raise
                problems.end(f"the file {name} cannot be read on: {error or type(error).__name__}")


def _lines(file: IO[bytes], prefix: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    number = 0
    while line := file.readline(MAX_TEXT_BYTES + 1):
        number += 1
        if len(line) > MAX_TEXT_BYTES:
            problems.add(f"{prefix}line {number} has more than {MAX_TEXT_BYTES:,} bytes")
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_TEXT_BYTES)
            continue
        if not line.strip():
            continue
        try:
            row = read_json_row(to_text(line))
        except (ValueError, RecursionError) as error:
            problems.add(f"{prefix}line {number}: {error}")
            continue
        yield f"{prefix}line {number}", row


def _parquet(file: IO[bytes], name: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    require_pyarrow(name)
    # By name, so that nobody needs pyarrow who has no parquet files.
    parquet = importlib.import_module("pyarrow.parquet")
    number = num_bytes = 0
    with parquet.ParquetFile(file, page_checksum_verification=True) as table:
        names = table.schema_arrow.names
        columns = [name for name in names if name in COLUMNS]
        if twice := {name for name in columns if columns.count(name) > 1}:
            raise ValueError(f"it has several columns named {min(twice)}")
        if not columns:
            raise ValueError(f"it has the columns {names[:8]}; expected some of {sorted(COLUMNS)}")
        for batch in table.iter_batches(batch_size=64, columns=columns):  # a row may hold megabytes of images
            for row in _values(batch):
                if isinstance(row, Exception):
                    problems.add(f"row {number}: {row}")
                else:
                    row, num_bytes = _with_places(row, num_bytes)
                    yield f"row {number}", row
                number += 1


def require_pyarrow(name: str) -> None:
    """Raise ModuleNotFoundError if pyarrow is missing, which a parquet file of this name needs."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError(f"{printable(name)} is a parquet file, and pyarrow is missing: pip install pyarrow")


def _with_places(value: Any, num_before: int) -> tuple[Any, int]:
    """A value with `TableBytes` for the bytes in it, and how many bytes there are up to its end."""
    if isinstance(value, bytes):
        return TableBytes(value, num_before), num_before + len(value)
    if isinstance(value, dict):
        fields = {}
        for name, part in value.items():
            fields[name], num_before = _with_places(part, num_before)
        return fields, num_before
    if isinstance(value, list):
        parts = []
        for part in value:
            placed, num_before = _with_places(part, num_before)
            parts.append(placed)
        return parts, num_before
    return value, num_before


def bytes_in(value: Any) -> Iterator[bytes]:
    """All bytes in a row of a table, in the order of their offsets."""
    if isinstance(value, TableBytes):
        yield value.data
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from bytes_in(part)


def _values(batch: Any) -> Iterator[Any]:
    """The rows of a batch; in place of one that Python has no values for, such as bytes that are no text, the error."""
    if batch.nbytes <= MAX_BATCH_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except Exception:  # which of the rows it was, the loop below finds
            pass
    for number in range(batch.num_rows):
        try:
            [row] = batch.slice(number, 1).to_pylist()
        except Exception as error:
            yield error
        else:
            yield row
