"""A finished run, an untrained model, and small data sets in every format, written by the tests that read them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import object_servers
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.object_path import ObjectPath
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.data.index import make_index
from trainer.pretrain import main


class Shards:
    """Writes data sets below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def image_bytes(self, seed: int, wh: tuple[int, int] = (50, 40), kind: str = "PNG") -> bytes:
        """A random image as a file."""
        pixels = np.random.default_rng(seed).integers(0, 256, (wh[1], wh[0], 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()

    def bomb(self, side: int = 9000) -> bytes:
        """A small file that declares many pixels."""
        file = io.BytesIO()
        Image.new("1", (side, side)).save(file, "PNG")
        return file.getvalue()

    def tar(self, name: str, members: Sequence[tuple[str, bytes]]) -> Path:
        path = self.root / name
        with tarfile.open(path, "w") as archive:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    def pairs(self, name: str, captions: Sequence[str], seed: int = 0) -> Path:
        """A WebDataset shard."""
        members = []
        for number, caption in enumerate(captions):
            members += [
                (f"{number:05d}.png", self.image_bytes(seed + number)),
                (f"{number:05d}.txt", caption.encode()),
            ]
        return self.tar(name, members)

    def jsonl(self, name: str, rows: Sequence[Any]) -> Path:
        """JSON lines; zipped if the name says so."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path = self.root / name
        if name.endswith(".zip"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(name.removesuffix(".zip"), text)
        else:
            path.write_text(text)
        return path

    def parquet(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(list(rows)), self.root / name)
        return self.root / name

    def folder(self, name: str, files: Mapping[str, bytes]) -> Path:
        path = self.root / name
        path.mkdir()
        for file, data in files.items():
            (path / file).write_bytes(data)
        return path

    def mmc4_row(self, texts: Sequence[str], images: Sequence[tuple[str, int, float]]) -> dict[str, Any]:
        """A document as MMC4 has it; `images` are names, numbers of texts, similarities."""
        return {
            "text_list": list(texts),
            "url": "http://example.com",
            "image_info": [
                {"image_name": name, "raw_url": name, "matched_text_index": text, "matched_sim": similarity}
                for name, text, similarity in images
            ],
            "similarity_matrix": [[0.1] * len(texts)] * len(images),
        }

    def manifest(self, *paths: Path, images: Sequence[Path] = (), **options: Any) -> str:
        """A manifest of the files, by its directory."""
        out = self.root / f"manifest-{paths[0].name}"
        make_index(paths, out, image_paths=images, **options)
        return str(out)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the recipe `tiny`, to be looked at and copied."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["tiny", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model and its processor, that no run stands around."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("untrained") / "model"
    processor = MMInterleavedProcessor(load_tokenizer(), image_size=32)
    MMInterleaved(MMInterleavedConfig.tiny(), processor).save_pretrained(directory)
    return directory


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path)


@pytest.fixture(scope="module")
def bucket():
    """Of moto's S3 server, empty."""
    for name in ("s3fs", "boto3"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install this project with its extra 'dev'")
    with object_servers.s3_bucket() as bucket:
        yield bucket


@pytest.fixture
def place(bucket, request):
    """In that bucket, of this test alone."""
    return ObjectPath(f"{bucket.url}/{request.node.name}")
