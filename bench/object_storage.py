"""What training from object storage costs: batches against those of local files, bytes and requests of an epoch, and
the time that a reader waits for shards.

python -m bench.object_storage

An S3 server (moto) and a web server with latency put in, both on this machine. Equality is checked first, for readers
in 1, 2 and 4 processes and with 0 and 2 data workers. With --train, the recipe `toy` trains on local files and on those
of the web server, and tells how long it waited; --train-only leaves the rest out.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import multiprocessing
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench import object_servers
from models.config import MMInterleavedConfig
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.corpus_stream import CorpusStream
from trainer.data.index import make_index
from trainer.logging.log_file import read_log
from trainer.step.dataloader import micro_batch_loader
from trainer.step.phase import Phase

MODEL = MMInterleavedConfig.tiny()
LATENCY = 0.03
"""Seconds before each answer of the web server."""


def write_shards(folder: Path, num_shards: int, num_pairs: int) -> None:
    """WebDataset shards of JPEGs with captions."""
    rng = np.random.default_rng(0)
    for number in range(num_shards):
        with tarfile.open(folder / f"{number:04d}.tar", "w") as archive:
            for pair in range(num_pairs):
                small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                file = io.BytesIO()
                Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
                for suffix, data in (("jpg", file.getvalue()), ("txt", f"image {number} {pair}".encode())):
                    info = tarfile.TarInfo(f"{pair:05d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def stream_of(manifest: Path, root: Path, *, cache_gb: float, row_tokens: int = 128) -> CorpusStream:
    """Rows of about 12 pairs, from windows of two shards."""
    config = CorpusConfig(
        {"pairs": SourceConfig(str(manifest))},
        num_rows=4,
        row_tokens=row_tokens,
        window_shards=2,
        cache=str(root / "cache"),
        cache_gb=cache_gb,
    )
    return CorpusStream(config, MODEL, seed=0, row_starts=root / "row_starts")


def digest(value: Any) -> str:
    """Of all tensors in a batch, or in lists and dataclasses of them."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, list | tuple):
        return hashlib.sha256("".join(map(digest, value)).encode()).hexdigest()
    if dataclasses.is_dataclass(value):
        return digest([getattr(value, one.name) for one in dataclasses.fields(value)])
    return repr(value)


def digests_of_share(
    manifest: Path, root: Path, cache_gb: float, rows: range, num_steps: int, num_workers: int
) -> list[str]:
    """The batches of a process that trains on some of the rows, as the training reads them."""
    stream = stream_of(manifest, root, cache_gb=cache_gb)
    parts = [range(row, row + 1) for row in rows]
    phase = Phase("main", 1, torch.nn.Identity(), stream.compact_part, 4, len, dict, len, num_steps, None)  # type: ignore[arg-type]
    with micro_batch_loader(phase, parts, 0, num_workers, pin_memory=False) as steps:
        return [digest([batch.to("cpu") for batch in step]) for step in steps]


def digests(manifest: Path, root: Path, cache_gb: float, num_processes: int, num_steps: int, workers: int) -> list[Any]:
    """Those of all processes, each with its share of the rows."""
    share = 4 // num_processes
    arguments = [
        (manifest, root, cache_gb, range(rank * share, (rank + 1) * share), num_steps, workers)
        for rank in range(num_processes)
    ]
    # Unlike those of multiprocessing.Pool, these processes may have children of their own: data workers.
    with ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(digests_of_share, *one) for one in arguments]]


def data_wait(manifest: Path, root: Path, cache_gb: float, num_steps: int) -> tuple[float, float]:
    """Train the recipe `toy` on the data: the seconds that the first step waited for its batch, and the share of all
    other steps' time that was such a wait."""
    command = [sys.executable, "-m", "trainer.pretrain", "toy", "--device", "cpu", "--out", str(root / "run")]
    sources = json.dumps({"pairs": {"manifest": str(manifest)}})
    corpus = {"sources": sources, "num_rows": 8, "row_tokens": 128, "window_shards": 2, "cache": root / "cache"}
    for name, value in (corpus | {"cache_gb": cache_gb}).items():
        command += [f"--corpus.{name}", str(value)]
    command += ["--num_steps", str(num_steps), "--num_workers", "2", "--num_threads", "1"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    first, *others = [line for line in read_log(root / "run") if "data_wait_s" in line]
    return first["data_wait_s"], sum(line["data_wait_s"] for line in others) / sum(line["step_s"] for line in others)


def trained(here: Path, files: Sequence[Path], root: Path, cache_gb: float, num_steps: int) -> list[tuple[str, str]]:
    """Rows of the table: training on local files and from the web server."""
    lines = []
    with object_servers.serving() as web:
        for file in files:
            web.files[f"/data/{file.name}"] = file.read_bytes()
        web.latency = LATENCY
        make_index([f"{web.url}/data/{file.name}" for file in files], root / "trained-index")
        for name, manifest in (("local files", here), ("the web server, 30 ms a request", root / "trained-index")):
            first, share = data_wait(manifest, root / name.replace(" ", "-"), cache_gb, num_steps)
            what = f"`toy` on {name}: wait for data in {num_steps - 1} steps after the first (goal: 5 %)"
            lines.append((what, f"{share:.1%} of their time; the first step waited {first:.1f} s"))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.object_storage", description=__doc__)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=60, help="of a shard")
    parser.add_argument("--steps", type=int, default=12, help="whose batches are compared")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS", help="of the recipe toy; 0: none")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args(arguments)
    lines: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "data").mkdir()
        write_shards(root / "data", args.shards, args.pairs)
        files = sorted((root / "data").iterdir())
        num_bytes = sum(file.stat().st_size for file in files)
        cache_gb = 1.02 * num_bytes / 1e9 * 4 / args.shards  # two windows of two shards
        make_index([root / "data"], root / "here")
        if args.train:
            lines += trained(root / "here", files, root, cache_gb, args.train)
        if args.train_only:
            print_table(lines)
            return 0

        with object_servers.s3_bucket() as bucket:
            for file in files:
                bucket.put(f"data/{file.name}", file.read_bytes())
            make_index([f"{bucket.url}/data"], root / "there")
            for num_processes in (1, 2, 4):
                for workers in (0, 2):
                    made = [
                        digests(
                            root / name,
                            root / f"{name}-{num_processes}-{workers}",
                            cache_gb,
                            num_processes,
                            args.steps,
                            workers,
                        )
                        for name in ("here", "there")
                    ]
                    assert made[0] == made[1], f"{num_processes} processes, {workers} workers"
            lines.append(("batches from s3:// and from local files, 1, 2, 4 processes, 0 and 2 workers", "equal bits"))

        with object_servers.serving() as web:
            for file in files:
                web.files[f"/data/{file.name}"] = file.read_bytes()
            web.latency = LATENCY
            web.requests.clear()
            make_index([f"{web.url}/data/{file.name}" for file in files], root / "web")
            lines.append(("bytes read to index, of the data's", f"{web.num_bytes_sent / num_bytes:.3f}"))
            web.requests.clear()
            web.num_bytes_sent = 0
            stream = stream_of(root / "web", root / "epoch", cache_gb=cache_gb)
            num_samples = args.shards * args.pairs
            last = num_samples - args.pairs  # later, more of the next epoch's first window is fetched
            keys: list[str] = []
            step = 0
            begin = time.perf_counter()
            while len(keys) < last:
                keys += stream.keys(step)
                step += 1
            seconds = time.perf_counter() - begin
            epoch = keys[:num_samples]  # the last rows may have samples of the next one
            assert len(set(epoch)) == len(epoch), "a sample came twice in an epoch"
            gets = web.gets()
            lines += [
                ("cache, of the data", f"{cache_gb * 1e9 / num_bytes:.3f}"),
                ("samples that came twice in the epoch", "0"),
                ("bytes, of the data's (goal: at most 1.1)", f"{web.num_bytes_sent / num_bytes:.3f}"),
                ("GETs a shard (goal: at most 1.05)", f"{sum(gets.values()) / args.shards:.3f}"),
            ]
            local = stream_of(root / "here", root / "epoch-here", cache_gb=cache_gb)
            begin = time.perf_counter()
            for number in range(step):
                local.keys(number)
            without = time.perf_counter() - begin
            ratio = f"{seconds / without:.3f} ({seconds:.1f} s, {step * 4 / seconds:.0f} rows a second)"
            lines.append(("an epoch's rows made at 30 ms a request, over those of local files (goal: 1.05)", ratio))
    print_table(lines)
    return 0


def print_table(lines: Sequence[tuple[str, str]]) -> None:
    for name, figure in lines:
        print(f"| {name} | {figure} |")


if __name__ == "__main__":
    sys.exit(main())
