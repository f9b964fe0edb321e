"""`python -m trainer.data.index PATH... --out MANIFEST`: find every sample of a data set once, so that training can
read any of them by number.

PATH is a file or a folder of files, or the URL of one (s3://, gs://, hf://, https://): WebDataset shards (.tar) of
images with captions, or tables of documents (.jsonl, .jsonl.zip, .parquet) in any of the forms that
`trainer.data.sources.rows` knows. With --form, it is a data set of a fine-tuning task as it was published
(`trainer.data.sources.published` lists the forms):

    python -m trainer.data.index refcoco --form refcoco --images train2014 --out data/rec
    python -m trainer.data.index pororo_png --form pororo --out data/story

Images that documents name are looked for in --images, folders or tar archives. With PATH in a bucket, MANIFEST may be
there, too. Started again after a stop, it goes on with the shards that are left.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from models.atomic_files import UNFINISHED, write_atomically
from models.directory_lock import directory_lock
from models.object_path import ObjectPath, place_of
from models.printable import printable
from models.program import explained, run_program
from models.urls import shown_url
from trainer.data.index_in_storage import (
    check_place,
    complete_sentence,
    is_ready,
    publish,
    refuse_complete,
    work_folder,
)
from trainer.data.index_shard import IndexedShard, identity_of, load_places, places_of, read_shard
from trainer.data.sources.atomic_file_writer import AtomicFileWriter
from trainer.data.sources.fetched_manifest import load_manifest_at
from trainer.data.sources.image_files import ImageFiles
from trainer.data.sources.manifest import MANIFEST, PARTS, SAMPLES, Manifest, fingerprint_of, to_json
from trainer.data.sources.places import PLACE, sealed
from trainer.data.sources.published import FORMS, files_of
from trainer.data.sources.regular_files import kind_of_place
from trainer.data.sources.remote_files import as_place
from trainer.data.sources.shard_files import kind_of, shard_files
from trainer.process.lease import LEASE_FILE, held_lease
from trainer.process.out_directory import check_directory, make_directory

PROGRAM = "python -m trainer.data.index"
PROBLEMS = "problems.txt"
MAX_PROBLEMS_TOLD = 5


def make_index(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    image_paths: Sequence[Path | str] = (),
    form: str | None = None,
    split: str = "train",
    checksums: bool = False,
    num_workers: int = 1,
    max_broken: float = 0.01,
) -> Manifest:
    """Write the manifest `out`.

    Args:
        paths: shards, or folders of them; URLs as text.
        out: the directory to make; one that an interrupted call left is completed. A URL as text: everything else has
            to be at URLs, too.
        image_paths: where images are that documents name.
        form: of `published.FORMS`: `paths` are one data set as it was published; None: shards.
        split: the part of such a data set that is read, where its files hold several.
        checksums: read every byte of every shard, too, and write its checksum down.
        num_workers: processes that read shards.
        max_broken: the share of samples that may be unusable.

    Raises:
        ValueError: `out` is complete already, holds something else, is being written by another process or cannot be
            made, there is nothing to read, it is not of that form, a file of it cannot be read, or too much of it is
            broken.
        WriteError: a file cannot be written; what has been read is kept.
        StorageError: the storage does not give out a shard, or does not take the index; what has been read is kept.
    """
    if isinstance(out, str):
        url = check_place(out, [*paths, *image_paths], own=(PROBLEMS, SAMPLES, f"{PARTS}/*", LEASE_FILE))
        folder = work_folder(url, paths, image_paths, form, split, checksums)
        with held_lease(ObjectPath(url), _tell) as lease:
            refuse_complete(url)  # by another process, for which this one has waited
            if not is_ready(folder, paths):
                make_index(
                    paths,
                    folder,
                    image_paths=image_paths,
                    form=form,
                    split=split,
                    checksums=checksums,
                    num_workers=num_workers,
                    max_broken=max_broken,
                )
            publish(folder, url, before_complete=lease.check)
            return load_manifest_at(url)
    if not 0 <= max_broken <= 1:
        raise ValueError(f"--max-broken is {max_broken:g}; expected a share from 0 to 1.")
    if num_workers < 1:
        raise ValueError(f"--num-workers is {num_workers}; expected 1 or more.")
    _refuse_complete(out)
    groups: list[list[Path | str]] = (
        [[file] for file in shard_files(paths)] if form is None else [[*files_of(form, _all_here(paths))]]
    )
    kind = kind_of([file for file, *_ in groups]) if form is None else "documents"
    for path in image_paths:
        if isinstance(path, Path) and not (path.is_dir() or path.is_file()):
            raise ValueError(
                f"--images is {printable(str(path))}, which is {kind_of_place(path)}; expected folders or tar archives "
                "of images."
            )
    check_directory(out, own=(PARTS, PROBLEMS, SAMPLES))
    make_directory(out)
    with directory_lock(out):
        _refuse_complete(out)
        (out / PARTS).mkdir(exist_ok=True)
        for unfinished in (*out.glob(f"*{UNFINISHED}"), *(out / PARTS).glob(f"*{UNFINISHED}")):
            unfinished.unlink(missing_ok=True)
        images = ImageFiles(image_paths, relative_to=out.resolve())
        for problem in images.problems:
            _tell(problem)
        how = {
            "images": [path if isinstance(path, str) else str(path.resolve()) for path in image_paths],
            "checksums": checksums,
            "form": form,
            "split": split,
        }
        identities = [identity_of(files, out, **how) for files in groups]
        read = partial(read_shard, out, kind, images)
        parts = []
        with tqdm(total=len(groups), unit=" shards", mininterval=0.2 if sys.stderr.isatty() else 30) as progress:
            for part in _in_order(read, identities, num_workers):
                parts.append(part)
                progress.update()
        return _assemble(out, kind, parts, max_broken)


def _tell(line: str) -> None:
    print(f"{PROGRAM}: {printable(line)}", file=sys.stderr, flush=True)


def _all_here(paths: Sequence[Path | str]) -> list[Path]:
    for path in paths:
        if isinstance(path, str):
            raise ValueError(
                f"{shown_url(path)} is a URL, and --form reads data sets of this machine: they are many small files. "
                "Copy it here, or leave --form out for shards."
            )
    return [path for path in paths if isinstance(path, Path)]


def _refuse_complete(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise ValueError(complete_sentence(printable(str(out))))


def _in_order(read: Any, identities: list[dict[str, Any]], num_workers: int) -> Iterator[IndexedShard]:
    if num_workers == 1:
        yield from map(read, range(len(identities)), identities)
        return
    stop = multiprocessing.Event()
    try:
        with ProcessPoolExecutor(num_workers, initializer=_end_with_parent, initargs=(stop,)) as pool:
            try:
                yield from pool.map(read, range(len(identities)), identities)
            except BaseException:
                stop.set()  # or leaving would wait until the shards at hand are read
                raise
    except BrokenProcessPool as error:
        raise ValueError(
            "A process that reads shards was ended from outside, perhaps for lack of memory. What has been read is "
            "kept; give the same command again, with fewer --num-workers."
        ) from error


def _end_with_parent(stop: Event) -> None:
    """A process that reads shards ends at once when it is told to, or when the command ends in whatever way: the next
    command may be writing the same files."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None
    for wait in (stop.wait, parent.join):
        threading.Thread(target=_end_after, args=(wait,), daemon=True).start()


def _end_after(wait: Callable[[], object]) -> None:
    wait()
    os._exit(1)


def _assemble(out: Path, kind: Literal["pairs", "documents"], parts: list[IndexedShard], max_broken: float) -> Manifest:
    shards = tuple(part.shard for part in parts)
    num_samples = sum(shard.num_samples for shard in shards)
    num_broken = sum(shard.num_broken for shard in shards)
    num_missing = sum(part.num_missing_images for part in parts)
    problems = [f"{printable(part.shard.path)}: {printable(problem)}" for part in parts for problem in part.problems]
    write_atomically(out / PROBLEMS, "".join(line + "\n" for line in problems))
    if num_missing and not any(part.num_found_images for part in parts):
        raise ValueError(
            f"None of the {num_missing:,} images that the documents name was found. Say where they are: --images, with "
            f"the folder that the names begin in, or a tar archive.{_first(problems, out)}"
        )
    if num_samples == 0 or num_broken > max_broken * (num_samples + num_broken):
        raise ValueError(
            f"{num_broken:,} of {num_samples + num_broken:,} samples cannot be used, more than the share of "
            f"{max_broken:g} that --max-broken allows.{_first(problems, out)}"
        )
    cut_off = [(part.shard.path, reason) for part in parts for reason in part.cut_off]
    for path, reason in cut_off[:MAX_PROBLEMS_TOLD]:
        print(f"{PROGRAM}: {printable(path)} was not read to its end: {printable(reason)}", file=sys.stderr)
    if len(cut_off) > MAX_PROBLEMS_TOLD:
        print(f"{PROGRAM}: and {len(cut_off) - MAX_PROBLEMS_TOLD:,} more, named in {PROBLEMS}", file=sys.stderr)
    fingerprint = fingerprint_of(kind, shards, _write_table(out, parts, num_samples))
    manifest = Manifest(
        directory=out.resolve(),
        kind=kind,
        shards=shards,
        num_samples=num_samples,
        num_missing_images=num_missing,
        fingerprint=fingerprint,
    )
    write_atomically(out / MANIFEST, to_json(manifest))
    for number in range(len(shards)):
        (out / places_of(number)).unlink()
    if kind == "pairs":
        shutil.rmtree(out / PARTS)
    return manifest


def _write_table(out: Path, parts: list[IndexedShard], num_samples: int) -> Iterator[bytes]:
    """Write the table of all samples, and give out its rows, those of a shard at a time.

    It is written, not mapped: where the disk is full, writing is an error, and touching mapped memory the end.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(PLACE), "fortran_order": False, "shape": (num_samples,)}
    )
    with AtomicFileWriter(out / SAMPLES, len(header.getvalue()) + num_samples * PLACE.itemsize) as table:
        table.append(header.getvalue())
        for number, part in enumerate(parts):
            places = load_places(out, number)
            if len(places) != part.shard.num_samples:
                raise ValueError(f"{out / places_of(number)} has changed. Give the same command again: it goes on.")
            rows = sealed(places, number).tobytes()
            table.append(rows)
            yield rows


def _first(problems: Sequence[str], out: Path) -> str:
    if not problems:
        return ""
    return f" All are named in {printable(str(out / PROBLEMS))}; the first: {'; '.join(problems[:MAX_PROBLEMS_TOLD])}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 not possible, 130 stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--out", required=True, help="the directory to write; s3:// or gs://, if PATH is there, too")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="folders or tar archives; default: PATH, of a data set",
    )
    parser.add_argument("--form", choices=list(FORMS), help="PATH is a data set as it was published")
    parser.add_argument("--split", default="train", help="the part of such a data set to read (default: %(default)s)")
    parser.add_argument("--checksums", action="store_true", help="read every byte, and keep each shard's checksum")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that read shards")
    parser.add_argument("--max-broken", type=float, default=0.01, help="share of samples that may be unusable")
    args = parser.parse_args(arguments)
    try:
        paths = [as_place(path, "PATH") for path in args.paths]
        images = [as_place(path, "--images") for path in args.images or ()]
        if args.form and not images:
            images = [path for path in paths if isinstance(path, Path) and path.is_dir()]
        manifest = make_index(
            paths,
            as_place(args.out, "--out"),
            image_paths=images,
            form=args.form,
            split=args.split,
            checksums=args.checksums,
            num_workers=args.num_workers,
            max_broken=args.max_broken,
        )
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"{PROGRAM}: {printable(explained(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped. What has been read is kept; the same command goes on.", file=sys.stderr)
        return 130
    from mmfs.plurals import counted  # mmfs imports torch, which --help shall not wait for

    num_broken = sum(shard.num_broken for shard in manifest.shards)
    samples, shards = counted(len(manifest), manifest.kind.removesuffix("s")), counted(len(manifest.shards), "shard")
    out = place_of(args.out)
    print(
        f"{out}: {samples} in {shards}; broken: {num_broken:,}, named in {out / PROBLEMS}; images named and "
        f"not found: {manifest.num_missing_images:,}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
