"""`python -m trainer.data.index PATH... --out MANIFEST`: find every sample of a data set once, so that training can
read any of them by number.

PATH is a file or a folder of files: WebDataset shards (.tar) of images with captions, or tables of documents (.jsonl,
.jsonl.zip, .parquet) in any of the forms that `trainer.data.sources.rows` knows. With --form, it is a data set of a
fine-tuning task as it was published (`trainer.data.sources.published` lists the forms):

    python -m trainer.data.index refcoco --form refcoco --images train2014 --out data/rec
    python -m trainer.data.index pororo_png --form pororo --out data/story

Images that documents name are looked for in --images, folders or tar archives. Started again after a stop, it goes on
with the shards that are left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from models.atomic_files import write_atomically
from models.program import explained, run_program
from trainer.data.sources.image_files import ImageFiles
from trainer.data.sources.manifest import (
    MANIFEST,
    PARTS,
    SAMPLES,
    Manifest,
    Shard,
    fingerprint_of,
    images_of,
    records_of,
    to_json,
)
from trainer.data.sources.pairs import find_pairs
from trainer.data.sources.places import PLACE
from trainer.data.sources.published import FORMS, files_of, read_published
from trainer.data.sources.records import copy_records
from trainer.data.sources.tables import TABLE_SUFFIXES, read_table
from trainer.process.out_directory import check_directory, make_directory

PROGRAM = "python -m trainer.data.index"
PROBLEMS = "problems.txt"
MAX_PROBLEMS_TOLD = 5


@dataclass(frozen=True)
class IndexedShard:
    """What is known of one shard once it is read; its table of places is next to it."""

    shard: Shard
    identity: dict[str, Any]
    """What it was made from, and how; another one has to be made when this changes."""

    num_missing_images: int
    problems: list[str]


def shard_files(paths: Sequence[Path]) -> list[Path]:
    """The files that paths mean, folders searched, in the order of their names.

    Raises:
        ValueError: a path is not there, or there is nothing to read.
    """
    suffixes = (".tar", *TABLE_SUFFIXES)
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.name.endswith(suffixes) and file.is_file())
        elif path.is_file() and path.name.endswith(suffixes):
            files.append(path)
        else:
            raise ValueError(
                f"{path} is {'of an unknown format' if path.is_file() else 'not there'}; expected folders or files "
                f"named {', '.join('*' + suffix for suffix in suffixes)}."
            )
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))}: no files named {', '.join('*' + s for s in suffixes)} there.")
    return files


def kind_of(files: Sequence[Path]) -> Literal["pairs", "documents"]:
    """What the files hold. Raises ValueError if they differ."""
    is_tar = [file.name.endswith(".tar") for file in files]
    if any(is_tar) and not all(is_tar):
        raise ValueError(
            f"{files[is_tar.index(True)]} is a shard of pairs and {files[is_tar.index(False)]} a table of documents; "
            "make a manifest for each. Archives with the images of documents are named by --images."
        )
    return "pairs" if all(is_tar) else "documents"


def make_index(
    paths: Sequence[Path],
    out: Path,
    *,
    image_paths: Sequence[Path] = (),
    form: str | None = None,
    split: str = "train",
    checksums: bool = False,
    num_workers: int = 1,
    max_broken: float = 0.01,
) -> Manifest:
    """Write the manifest `out`.

    Args:
        paths: shards, or folders of them.
        out: the directory to make; one that an interrupted call left is completed.
        image_paths: where images are that documents name.
        form: of `published.FORMS`: `paths` are one data set as it was published; None: shards.
        split: the part of such a data set that is read, where its files hold several.
        checksums: read every byte of every shard, too, and write its checksum down.
        num_workers: processes that read shards.
        max_broken: the share of samples that may be unusable.

    Raises:
        ValueError: `out` is complete already, holds something else or cannot be made, there is nothing to read, it is
            not of that form, or too much of it is broken.
    """
    if (out / MANIFEST).exists():
        raise ValueError(f"{out} is complete already. Give another --out, or remove it first.")
    groups = [[file] for file in shard_files(paths)] if form is None else [files_of(form, paths)]
    kind = kind_of([file for file, *_ in groups]) if form is None else "documents"
    if absent := [path for path in image_paths if not path.exists()]:
        raise ValueError(f"--images is {absent[0]}, which is not there; expected folders or tar archives of images.")
    check_directory(out, own=(PARTS, PROBLEMS, SAMPLES))
    make_directory(out)
    (out / PARTS).mkdir(exist_ok=True)
    images = ImageFiles(image_paths, relative_to=out.resolve())
    for problem in images.problems:
        print(f"{PROGRAM}: {problem}", file=sys.stderr)
    identities = [
        {
            "paths": [Path(os.path.relpath(file.resolve(), out.resolve())).as_posix() for file in files],
            "sizes_bytes": [file.stat().st_size for file in files],
            "modified_ns": [file.stat().st_mtime_ns for file in files],
            "images": [str(path.resolve()) for path in image_paths],
            "checksums": checksums,
            "form": form,
            "split": split,
        }
        for files in groups
    ]
    read = partial(read_shard, out, kind, images)
    parts = []
    with tqdm(total=len(groups), unit=" shards", mininterval=0.2 if sys.stderr.isatty() else 30) as progress:
        for part in _in_order(read, identities, num_workers):
            parts.append(part)
            progress.update()
    return _assemble(out, kind, parts, max_broken)


def _in_order(read: Any, identities: list[dict[str, Any]], num_workers: int) -> Iterator[IndexedShard]:
    if num_workers <= 1:
        yield from map(read, range(len(identities)), identities)
        return
    with ProcessPoolExecutor(num_workers) as pool:
        yield from pool.map(read, range(len(identities)), identities)


def read_shard(
    out: Path, kind: Literal["pairs", "documents"], images: ImageFiles, number: int, identity: dict[str, Any]
) -> IndexedShard:
    """The part of the manifest that shard `number` makes; read again only if it has changed."""
    description, table = out / PARTS / f"{number:06d}.json", out / PARTS / f"{number:06d}.npy"
    if (part := _finished_shard(description)) is not None and part.identity == identity:
        return part
    problems: list[str] = []
    num_missing = 0
    paths = [(out / path).resolve() for path in identity["paths"]]
    if kind == "pairs":
        places = find_pairs(paths[0], problems)
    else:
        # Only the description, written last, makes a part count; so these need not be written aside.
        records, image_name = records_of(number), images_of(number)
        with (out / records).open("wb") as record_file, (out / image_name).open("wb") as image_file:
            rows = _rows(paths, identity["form"], identity["split"], problems)
            places, num_missing = copy_records(rows, images, record_file, image_file, image_name, problems)
    np.save(table, places)
    checksum = _checksum(paths) if identity["checksums"] else None
    shard = Shard(identity["paths"][0], sum(identity["sizes_bytes"]), checksum, len(places), len(problems))
    part = IndexedShard(shard, identity, num_missing, problems)
    write_atomically(description, json.dumps(asdict(part)))
    return part


def _finished_shard(description: Path) -> IndexedShard | None:
    if not description.exists():
        return None
    fields = json.loads(description.read_text(encoding="utf-8"))
    return IndexedShard(Shard(**fields.pop("shard")), **fields)


def _assemble(out: Path, kind: Literal["pairs", "documents"], parts: list[IndexedShard], max_broken: float) -> Manifest:
    shards = tuple(part.shard for part in parts)
    num_samples = sum(shard.num_samples for shard in shards)
    num_broken = sum(shard.num_broken for shard in shards)
    told = [f"{part.shard.path}: {problem}" for part in parts for problem in part.problems]
    write_atomically(out / PROBLEMS, "".join(line.replace("\n", " ") + "\n" for line in told))
    if num_samples == 0 or num_broken > max_broken * (num_samples + num_broken):
        first = "; ".join(told[:MAX_PROBLEMS_TOLD])
        raise ValueError(
            f"{num_broken:,} of {num_samples + num_broken:,} samples cannot be used, more than the share of "
            f"{max_broken:g} that --max-broken allows. All are named in {out / PROBLEMS}; the first: {first}"
        )
    unfinished = out / f".{SAMPLES}"
    table = np.lib.format.open_memmap(unfinished, mode="w+", dtype=PLACE, shape=(num_samples,))
    start = 0
    for number, shard in enumerate(shards):
        rows = table[start : start + shard.num_samples]
        rows[:] = np.load(out / PARTS / f"{number:06d}.npy")
        rows["shard"] = number
        start += shard.num_samples
    table.flush()
    unfinished.rename(out / SAMPLES)
    manifest = Manifest(
        directory=out.resolve(),
        kind=kind,
        shards=shards,
        num_samples=num_samples,
        num_missing_images=sum(part.num_missing_images for part in parts),
        fingerprint=fingerprint_of(kind, shards, table),
    )
    write_atomically(out / MANIFEST, to_json(manifest))
    for number in range(len(shards)):
        (out / PARTS / f"{number:06d}.npy").unlink()
    if kind == "pairs":
        shutil.rmtree(out / PARTS)
    return manifest


def _rows(paths: Sequence[Path], form: str | None, split: str, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """The rows of a shard, each with what names it in messages."""
    if form is not None:
        return read_published(form, paths, split, problems)
    return ((f"row {number}", row) for number, row in enumerate(read_table(paths[0], problems)))


def _checksum(paths: Sequence[Path]) -> str:
    """Of the files one after the other."""
    digest = hashlib.blake2b()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 not possible."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, help="the directory to write")
    parser.add_argument(
        "--images", nargs="+", type=Path, metavar="PATH", help="folders or tar archives; default: PATH, of a data set"
    )
    parser.add_argument("--form", choices=list(FORMS), help="PATH is a data set as it was published")
    parser.add_argument("--split", default="train", help="the part of such a data set to read (default: %(default)s)")
    parser.add_argument("--checksums", action="store_true", help="read every byte, and keep each shard's checksum")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that read shards")
    parser.add_argument("--max-broken", type=float, default=0.01, help="share of samples that may be unusable")
    args = parser.parse_args(arguments)
    try:
        manifest = make_index(
            args.paths,
            args.out,
            image_paths=args.images or ([path for path in args.paths if path.is_dir()] if args.form else []),
            form=args.form,
            split=args.split,
            checksums=args.checksums,
            num_workers=args.num_workers,
            max_broken=args.max_broken,
        )
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"{PROGRAM}: {explained(error)}", file=sys.stderr)
        return 2
    from mmfs.plurals import counted  # mmfs imports torch, which --help shall not wait for

    num_broken = sum(shard.num_broken for shard in manifest.shards)
    samples, shards = counted(len(manifest), manifest.kind.removesuffix("s")), counted(len(manifest.shards), "shard")
    print(
        f"{args.out}: {samples} in {shards}; broken: {num_broken:,}, named in {args.out / PROBLEMS}; images named and "
        f"not found: {manifest.num_missing_images:,}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
