"""Documents of a manifest: what `rows` read, one JSON object a line, so that any of them is one short read away.

Zip members and parquet row groups can be read only from their start; so the text of their documents (without MMC4's
matrix of similarities, most of its bytes) is copied when they are indexed. Images that stand inside a table stay there
(`table_images`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.sources.atomic_file_writer import AtomicFileWriter
from trainer.data.sources.image_files import ImageFiles
from trainer.data.sources.places import PlaceList, is_whole
from trainer.data.sources.problems import Problems
from trainer.data.sources.remote_files import file_at, resolved
from trainer.data.sources.rows import IN_THE_TABLE, StoredAt, read_row
from trainer.data.sources.sample import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    BrokenSampleError,
    Marks,
    PartialFile,
    Sample,
    StoredImage,
    read_bytes,
    to_text,
)
from trainer.data.sources.tables import TableBytes


def copy_records(
    rows: Iterable[tuple[str, Any]],
    images: ImageFiles,
    records: AtomicFileWriter,
    problems: Problems,
) -> tuple[np.ndarray, int, int]:
    """Write rows down as records.

    Args:
        rows: what names each in messages, and what `read_row` takes.
        images: finds the images that the documents name.
        records: gets one line a document.
        problems: gets a sentence for each row that cannot be used.

    Returns:
        [number of documents] of `PLACE`, with the documents' checksums; the number of images that were found, and of
        those that were named but not found, in all rows, also those that cannot be used for lack of them.

    Raises:
        WriteError: a file cannot be written.
    """
    num_found = num_missing = 0

    def find_image(image: Any) -> StoredAt | None:
        nonlocal num_found, num_missing
        at = located(image)
        num_found += at is not None
        num_missing += at is None
        return at

    def located(image: Any) -> StoredAt | None:
        if isinstance(image, dict):  # as Hugging Face's datasets write images
            image = image["bytes"] if image.get("bytes") is not None else image["path"]
        if isinstance(image, TableBytes):
            if len(image) > MAX_IMAGE_BYTES:
                raise BrokenSampleError(f"An image has {len(image):,} bytes; the limit is {MAX_IMAGE_BYTES:,}.")
            return IN_THE_TABLE, image.offset, len(image)
        if not isinstance(image, str):
            raise BrokenSampleError(f"An image is a {type(image).__name__}; expected a name or its bytes.")
        return images.find(image)

    places = PlaceList()
    for name, row in rows:
        try:
            record = read_row(row, find_image)
            fields: dict[str, Any] = {"texts": record.texts, "images": record.images, "fixed_order": record.fixed_order}
            if record.marks != Marks():
                fields["marks"] = asdict(record.marks)
            line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
            if len(line) > MAX_TEXT_BYTES:
                raise BrokenSampleError(f"The document has {len(line):,} bytes; the limit is {MAX_TEXT_BYTES:,}.")
        except (BrokenSampleError, UnicodeEncodeError) as error:  # JSON can spell half a surrogate pair
            problems.add(f"{name}: {error}")
            continue
        places.add(records.append(line), len(line), 0, 0, is_json=True, crc32=zlib.crc32(line))
    return places.array(), num_found, num_missing


def read_record(
    path: Path, place: np.void, key: str, directory: Path, table_images: PartialFile | None = None
) -> Sample:
    """The document at a place of a file of records; `directory` is the manifest's, and `table_images` are those inside
    of the table. Raises BrokenSampleError."""
    line = read_bytes(path, int(place["text_offset"]), int(place["text_size"]))
    if not is_whole(place, line):
        raise BrokenSampleError("The index or its copy of the document is damaged; make the index again.")
    text = to_text(line)
    try:
        fields = json.loads(text)
        marks = Marks(**{name: tuple(numbers) for name, numbers in fields.get("marks", {}).items()})
        sizes = {number: (width, height) for number, width, height in marks.described_sizes}
        images = tuple(
            StoredImage(
                _file_of(file, directory, table_images),
                offset,
                size,
                text=text,
                similarity=similarity,
                given=number in marks.given_images,
                label_map=number in marks.label_maps,
                strip=number in marks.strips,
                as_stored=number in marks.as_stored,
                described_size=sizes.get(number),
            )
            for number, ((file, offset, size), text, similarity) in enumerate(fields["images"])
        )
        return Sample(key, tuple(fields["texts"]), images, fields["fixed_order"], marks)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BrokenSampleError(f"The record is damaged: {error}.") from error


def _file_of(file: str, directory: Path, table_images: PartialFile | None) -> Path | PartialFile:
    if file != IN_THE_TABLE:
        return file_at(resolved(file, directory))
    if table_images is None:
        raise ValueError("it speaks of images in its table, which has none")
    return table_images
