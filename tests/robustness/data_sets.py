"""Small data sets of both kinds."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def pairs(folder: Path, num_samples: int = 700) -> list[str]:
    """Two shards; a table of places of 700 samples each has about ten pages."""
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(num_samples):
                for suffix, data in (("png", b"x"), ("txt", b"a snail")):
                    info = tarfile.TarInfo(f"{number}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return [str(folder / f"{shard}.tar") for shard in range(2)]


def documents(folder: Path, num_samples: int = 120) -> list[str]:
    """Two tables whose images and texts are copied."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for shard in range(2):
        rows = [{"image": {"bytes": png(n), "path": ""}, "caption": f"snail {n} " * 10} for n in range(num_samples)]
        parquet.write_table(arrow.Table.from_pylist(rows), folder / f"{shard}.parquet")
    return [str(folder / f"{shard}.parquet") for shard in range(2)]
