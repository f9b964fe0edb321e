"""CLIP's features of many images, kept on disk, so that a run that goes on does not compute them again."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.atomic_files import write_atomically
from trainer.benchmarks.image_files import open_image
from trainer.benchmarks.networks.clip import Clip
from trainer.benchmarks.sample import ImageFile
from trainer.logging.time_left import time_left

if TYPE_CHECKING:
    from trainer.process.distributed import Processes

IMAGES_IN_A_FILE = 1024
NUM_READING_THREADS = 4


def image_features(
    paths: Sequence[Path],
    clip: Clip,
    clip_digest: str,
    directory: Path,
    processes: Processes,
    progress: Callable[[str], None],
) -> dict[Path, np.ndarray]:
    """float32 [features] of each image.

    Every process computes some of the files and reads all of them. The files are named by what the features are of:
    CLIP's weights, and the name and the size in bytes of every image.

    Args:
        paths: images, each once.
        clip_digest: of CLIP's weights.
        directory: where they are kept.

    Raises:
        UsageError: an image cannot be read.
    """
    facts = "".join(f"{path} {path.stat().st_size}\n" for path in paths)
    kept = directory / hashlib.sha256((clip_digest + "\n" + facts).encode()).hexdigest()[:16]
    if processes.is_first:
        kept.mkdir(parents=True, exist_ok=True)
    processes.barrier()
    parts = [paths[start : start + IMAGES_IN_A_FILE] for start in range(0, len(paths), IMAGES_IN_A_FILE)]
    files = [kept / f"{number:05d}.npy" for number in range(len(parts))]
    mine = list(zip(files, parts, strict=True))[processes.rank :: processes.num]
    left = [(file, part) for file, part in mine if not file.is_file()]
    begun = time.monotonic()
    for done, (file, part) in enumerate(left, 1):
        write_atomically(file, _npy(_computed(part, clip)))
        left_s = int((time.monotonic() - begun) / done * (len(left) - done))
        progress(f"features of images to choose examples by: {done:,}/{len(left):,} files  {time_left(left_s)}")
    processes.barrier()
    rows = np.concatenate([np.load(file, allow_pickle=False) for file in files])
    return dict(zip(paths, rows, strict=True))


def _computed(paths: Sequence[Path], clip: Clip) -> np.ndarray:
    with ThreadPoolExecutor(NUM_READING_THREADS) as pool:
        return clip.of_images(list(pool.map(lambda path: open_image(ImageFile(path)), paths)))


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
