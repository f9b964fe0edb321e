"""The table of a manifest: one row a sample, saying where it lies."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from trainer.data.sources.regular_files import open_regular

PLACE = np.dtype(
    [
        ("shard", "<u4"),
        ("text_offset", "<u8"),
        ("text_size", "<u4"),
        ("image_offset", "<u8"),  # of pairs; documents name their images in their text
        ("image_size", "<u4"),
        ("is_json", "?"),
        ("crc32", "<u4"),  # of the copied document, where there is one, and of the other fields
    ]
)
CRC_BYTES = PLACE["crc32"].itemsize


class PlaceList:
    """Rows that are found one after the other; in memory they need no more than in the table."""

    def __init__(self) -> None:
        self._rows = bytearray()

    def add(
        self, text_offset: int, text_size: int, image_offset: int, image_size: int, *, is_json: bool, crc32: int = 0
    ) -> None:
        """Another row; its shard is filled in when the table is put together, and what its `crc32` says of it."""
        self._rows += _ROW.pack(0, text_offset, text_size, image_offset, image_size, is_json, crc32)

    def array(self) -> np.ndarray:
        """All of them, [number of rows] of `PLACE`."""
        return np.frombuffer(self._rows, dtype=PLACE)


_ROW = struct.Struct("<IQIQI?I")
assert _ROW.size == PLACE.itemsize


def sealed(rows: np.ndarray, shard: int) -> np.ndarray:
    """Rows with the number of their shard, and with checksums that cover it."""
    rows = rows.copy()
    rows["shard"] = shard
    data, size = memoryview(rows.tobytes()), PLACE.itemsize
    starts = range(0, len(data), size)
    of_documents = rows["crc32"].tolist()
    rows["crc32"] = [
        zlib.crc32(data[start : start + size - CRC_BYTES], crc) for start, crc in zip(starts, of_documents, strict=True)
    ]
    return rows


def is_whole(row: np.void, document: bytes = b"") -> bool:
    """Whether a row of the table, and the copied document that it leads to, are as they were written."""
    return zlib.crc32(row.tobytes()[:-CRC_BYTES], zlib.crc32(document)) == int(row["crc32"])


class Places:
    """The table in a file. A row is read when it is asked for: the table may be larger than the memory, and a file
    that is mapped into it would end the process where it is cut off meanwhile, or its disk fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_regular(path) as file:
            try:
                version = np.lib.format.read_magic(file)
                if version != (1, 0):
                    raise ValueError(f"It has version {version} of the .npy format; expected (1, 0).")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                if dtype != PLACE or len(shape) != 1:
                    raise ValueError(f"It holds {dtype} {list(shape)}; expected one row a sample.")
                self._start, self._num_rows = file.tell(), int(shape[0])
                expected, found = self._start + self._num_rows * PLACE.itemsize, os.fstat(file.fileno()).st_size
                if found != expected:
                    raise ValueError(f"It has {found:,} bytes; expected {expected:,}.")
            except Exception as error:  # a header is Python text; NumPy passes on what its tokenizer says of it
                raise ValueError(f"{path} is damaged: {error}") from error
            self._descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> np.void:
        """One row. Raises OSError, EOFError if the file ends before it."""
        if not 0 <= index < self._num_rows:
            raise IndexError(f"There is no sample {index}; the manifest has {self._num_rows}.")
        data = os.pread(self._descriptor, PLACE.itemsize, self._start + index * PLACE.itemsize)
        if len(data) < PLACE.itemsize:
            raise EOFError(f"{self._path} ends before sample {index}")
        row: np.void = np.frombuffer(data, PLACE)[0]
        return row


def table_rows(path: Path) -> Iterator[bytes]:
    """All rows of a table, some at a time. Raises OSError, ValueError."""
    num_rows = len(Places(path))
    with open_regular(path) as file:
        file.seek(-num_rows * PLACE.itemsize, os.SEEK_END)
        yield from iter(lambda: file.read(PLACE.itemsize << 16), b"")


@lru_cache(maxsize=64)
def open_places(path: Path, fingerprint: str) -> Places:
    """The table of the manifest that has this fingerprint.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged.
    """
    del fingerprint  # another one means another file of the same name
    return Places(path)
