"""Files with a document in each row: JSON lines, plain or zipped, and parquet."""

from __future__ import annotations

import importlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from trainer.data.sources.sample import MAX_TEXT_BYTES, BrokenSampleError, to_text

TABLE_SUFFIXES = (".jsonl", ".jsonl.zip", ".parquet")
COLUMNS = (
    *("texts", "images", "text_list", "image_info", "segments", "image", "caption", "text"),
    *("question", "answer", "expression", "box", "bbox", "width", "height", "label_map", "story", "conversations"),
)
"""What `rows.read_row` looks at; a parquet file's other columns are not read."""


def read_table(path: Path, problems: list[str]) -> Iterator[Any]:
    """The rows of a file, in their order. What cannot be read is passed over, with a sentence in `problems`."""
    try:
        if path.name.endswith(".parquet"):
            yield from _parquet(path)
        elif path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".jsonl"):
                        with archive.open(name) as file:
                            yield from _lines(file, problems)
        else:
            with path.open("rb") as file:
                yield from _lines(file, problems)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        problems.append(f"the file cannot be read on: {error}")


def _lines(file: IO[bytes], problems: list[str]) -> Iterator[Any]:
    number = 0
    while line := file.readline(MAX_TEXT_BYTES + 1):
        number += 1
        if len(line) > MAX_TEXT_BYTES:
            problems.append(f"line {number} has more than {MAX_TEXT_BYTES:,} bytes")
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_TEXT_BYTES)
            continue
        if not line.strip():
            continue
        try:
            yield json.loads(to_text(line))
        except (BrokenSampleError, ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")


def _parquet(path: Path) -> Iterator[Any]:
    # By name, so that nobody needs pyarrow who has no parquet files.
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        broken: type[Exception] = importlib.import_module("pyarrow").ArrowException
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} is a parquet file, and pyarrow is missing: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in COLUMNS]
            for batch in file.iter_batches(batch_size=64, columns=columns):  # a row may hold megabytes of images
                yield from batch.to_pylist()
    except broken as error:
        raise OSError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
