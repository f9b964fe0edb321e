"""Images of samples, opened."""

from __future__ import annotations

from pathlib import Path

from PIL import Image as PILImage

from trainer.benchmarks.sample import ImageFile
from trainer.data.image_decoding import decode
from trainer.data.sources.sample import BrokenSampleError
from trainer.errors import UsageError

MAX_PIXELS = 100_000_000


def open_image(image: ImageFile) -> PILImage.Image:
    """An RGB image.

    Raises:
        UsageError: the file is not there, or no image.
    """
    try:
        data = image.path.read_bytes()
        return decode(
            data,
            MAX_PIXELS,
            label_map=image.form == "label map",
            moment=image.frame if image.form == "frames" else None,
            described_size=image.described_size,
        )
    except OSError as error:
        raise UsageError(f"{image.path} cannot be read: {error.strerror}.") from error
    except BrokenSampleError as error:
        raise UsageError(f"{image.path}: {error}") from error


def missing_images(paths: list[Path]) -> list[Path]:
    """Those of the files that are not there. Folders are listed once, for a data set has up to a hundred thousand
    images."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        folder = path.parent
        if folder not in listed:
            try:
                listed[folder] = {entry.name for entry in folder.iterdir()}
            except OSError:
                listed[folder] = set()
        if path.name not in listed[folder]:
            missing.append(path)
    return missing
