"""Documents of a manifest: what `rows` read, one JSON object a line, so that any of them is one short read away.

Zip members and parquet row groups can be read only from their start; so the text of their documents (without MMC4's
matrix of similarities, most of its bytes), and images that stand inside a table, are copied when they are indexed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.data.sources.image_files import ImageFiles
from trainer.data.sources.places import PLACE
from trainer.data.sources.rows import StoredAt, read_row
from trainer.data.sources.sample import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    BrokenSampleError,
    Marks,
    Sample,
    StoredImage,
    read_bytes,
    to_text,
)


def copy_records(
    rows: Iterable[tuple[str, Any]],
    images: ImageFiles,
    records: IO[bytes],
    image_file: IO[bytes],
    image_file_name: str,
    problems: list[str],
) -> tuple[np.ndarray, int]:
    """Write rows down as records.

    Args:
        rows: what names each in messages, and what `read_row` takes.
        images: finds the images that the documents name.
        records: gets one line a document.
        image_file: gets the images that stand in the table itself.
        image_file_name: what the records call that file.
        problems: gets a sentence for each row that cannot be used.

    Returns:
        [number of documents] of `PLACE`, and the number of images that were named but not found.
    """

    def find_image(image: Any) -> StoredAt | None:
        if isinstance(image, dict):  # as Hugging Face's datasets write images
            image = image["bytes"] if image.get("bytes") is not None else image["path"]
        if isinstance(image, bytes):
            if len(image) > MAX_IMAGE_BYTES:
                raise BrokenSampleError(f"An image has {len(image):,} bytes; the limit is {MAX_IMAGE_BYTES:,}.")
            offset = image_file.tell()
            image_file.write(image)
            return image_file_name, offset, len(image)
        if not isinstance(image, str):
            raise BrokenSampleError(f"An image is a {type(image).__name__}; expected a name or its bytes.")
        return images.find(image)

    places, num_missing = [], 0
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
            problems.append(f"{name}: {error}")
            continue
        num_missing += record.num_missing
        places.append((0, records.tell(), len(line), 0, 0, True))
        records.write(line)
    return np.array(places, dtype=PLACE), num_missing


def read_record(path: Path, place: np.void, key: str, directory: Path) -> Sample:
    """The document at a place of a file of records; `directory` is the manifest's. Raises BrokenSampleError."""
    text = to_text(read_bytes(path, int(place["text_offset"]), int(place["text_size"])))
    try:
        fields = json.loads(text)
        marks = Marks(**{name: tuple(numbers) for name, numbers in fields.get("marks", {}).items()})
        sizes = {number: (width, height) for number, width, height in marks.described_sizes}
        images = tuple(
            StoredImage(
                Path(os.path.normpath(directory / file)),
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
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenSampleError(f"The record is damaged: {error}.") from error
