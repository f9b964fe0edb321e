"""Damaged and hostile data sets through the index: `python tests/robustness/fuzz_data.py --minutes 30 --seed 0`.

Each case changes a small data set of one kind (bytes flipped, cut out, doubled, replaced by what is awkward; values of
rows replaced by odd ones) and runs the index on it, as its command does. It has to end with a manifest whose every
sample can be read, or is refused as broken, or with a sentence; within seconds and a bounded memory; and nothing that a
file names may be run. A case that does not is printed with its number: `--case N` runs it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.index import PROBLEMS, make_index
from trainer.data.sources.manifest import load_manifest
from trainer.data.sources.sample import BrokenSampleError
from trainer.data.sources.shard_cache import ShardCache

MAX_SECONDS = 20
MAX_MORE_BYTES = 1 << 30
"""How much a case may add to the address space."""

MARK = "ran-what-it-should-not"
"""The name of a file that the hostile pickles would make."""

AWKWARD = (b"\0", b"\xff" * 8, b"\n", b'"', b"{" * 50, b"9" * 400, b"-1", b"NaN", b"\xef\xbb\xbf", b"../", b"\x7f" * 4)
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**400, 2**63, float("nan"), float("inf"), -0.5, "", " ", "a.png", "../a.png", "/etc/passwd"),
    *("a" * 300, "\0", "\x1b[31m", "\udcff", [], {}, [[]], {"a": None}, [None], ["a"] * 5, {"bytes": None}, "<image>"),
)


def png(seed: int) -> bytes:
    """A small image."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


IMAGES = {"a.png": png(1), "b.png": png(2)}
ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "caption": "a snail"},
    {"image": "a.png", "question": "What is it?", "answer": "a snail"},
    {"image": "b.png", "expression": "the snail", "bbox": [1, 1, 3, 4], "width": 6, "height": 6},
    {"label_map": "a.png", "caption": "a snail", "image": "b.png"},
    {"story": [{"text": "One.", "image": "a.png"}, {"text": "Two.", "image": "b.png", "strip": True}]},
    {
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A snail."}],
        "image": "a.png",
    },
    {"texts": ["One.", None, "Two."], "images": [None, "a.png", None]},
    {
        "text_list": ["One.", "Two."],
        "image_info": [{"image_name": "a.png", "matched_text_index": 1, "matched_sim": 0.3}],
    },
    {"segments": [{"text": "One.", "loss": False}, {"image": "a.png", "draw": False}, {"text": "Two.", "loss": True}]},
]


class Runs:
    """Unpickled as usual, it makes a directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARK,)


# Whole data sets: each makes files below a folder, and says which of them are to be damaged, the paths and the options.
Made = tuple[list[Path], list[Path], dict[str, Any]]


def pairs(folder: Path, rng: random.Random) -> Made:
    file = folder / "a.tar"
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    with tarfile.open(file, "w", format=rng.choice(formats)) as archive:
        for number in range(4):
            long = rng.choice(("x", "folder/" * 18))
            fields = (("png", IMAGES["a.png"]), ("txt", b"a snail"), ("json", b'{"caption": "a snail"}'))
            for suffix, data in fields[: rng.choice((2, 3))]:
                info = tarfile.TarInfo(f"{long}{number}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return [file], [file], {}


def lines(folder: Path, rng: random.Random) -> Made:
    file = folder / "a.jsonl"
    file.write_bytes(encoded_lines(odd_rows(rng)))
    return [file], [file], {"image_paths": [images(folder)]}


def zipped_lines(folder: Path, rng: random.Random) -> Made:
    file = folder / "a.jsonl.zip"
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(file, "w", rng.choice(methods)) as archive:
        for number in range(rng.choice((1, 2))):
            archive.writestr(f"{number}.jsonl", encoded_lines(odd_rows(rng)))
    return [file], [file], {"image_paths": [images(folder)]}


def tables(folder: Path, rng: random.Random) -> Made:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = folder / "a.parquet"
    rows = rng.choice(
        (
            [{"image": {"bytes": png(n), "path": None}, "caption": f"snail {n}"} for n in range(5)],
            [{"texts": ["One.", None], "images": [None, "a.png"]}] * 5,
            [{"segments": [{"text": "One.", "image": None}, {"text": None, "image": "a.png"}]}] * 3,
        )
    )
    parquet.write_table(
        arrow.Table.from_pylist(rows),
        file,
        compression=rng.choice(("none", "snappy", "gzip", "zstd")),
        use_dictionary=rng.random() < 0.5,
        write_page_checksum=rng.random() < 0.5,
        version=rng.choice(("1.0", "2.6")),
    )
    return [file], [file], {"image_paths": [images(folder)]}


def image_archive(folder: Path, rng: random.Random) -> Made:
    table = folder / "a.jsonl"
    table.write_bytes(encoded_lines(ROWS))
    file = folder / "images.tar"
    with tarfile.open(file, "w") as archive:
        for name, data in IMAGES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return [file], [table], {"image_paths": [file]}


def references(folder: Path, rng: random.Random) -> Made:
    refs, instances = folder / "refs(unc).p", folder / "instances.json"
    listed: list[Any] = [
        {
            **{"ann_id": number, "ref_id": number, "image_id": 1, "split": "train"},
            "sentences": [{"sent": "the snail"}, {"sent": "K\xe4se"}],
        }
        for number in range(3)
    ]
    if rng.random() < 0.3:
        listed.append(Runs())
    refs.write_bytes(pickle.dumps(listed, rng.randrange(5)))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 6, "height": 6}],
        "annotations": [{"id": number, "bbox": [1, 1, 3, 4]} for number in range(3)],
    }
    instances.write_text(json.dumps(content if rng.random() < 0.5 else odd(content, rng)))
    return [refs, instances], [folder], {"image_paths": [images(folder)], "form": "refcoco"}


def stories(folder: Path, rng: random.Random) -> Made:
    clips = [f"Film_1/{number}" for number in range(6)]
    arrays = {
        "descriptions.npy": np.array({clip: ["It sleeps."] for clip in clips}, dtype=object),
        "img_cache4.npy": np.array([f"{clip}.png".encode() for clip in clips[:2]]),
        "following_cache4.npy": np.array([[f"{c}.png".encode() for c in clips[n + 1 : n + 5]] for n in range(2)]),
        "train_seen_unseen_ids.npy": np.array([np.array([1, 0]), np.array([0]), [0]], dtype=object),
    }
    if rng.random() < 0.2:
        arrays["descriptions.npy"] = np.array([Runs()], dtype=object)
    for name, array in arrays.items():
        np.save(folder / name, array)
    (folder / "Film_1").mkdir()
    for clip in clips:
        (folder / f"{clip}.png").write_bytes(IMAGES["a.png"])
    return [folder / name for name in arrays], [folder], {"image_paths": [folder], "form": "pororo"}


def annotations(folder: Path, rng: random.Random) -> Made:
    people = [{"question_id": n, "image_id": 9, "multiple_choice_answer": "yes"} for n in range(3)]
    contents = {
        "vqav2": {
            **{"data_subtype": "val", "annotations": people},
            "questions": [{"question_id": n, "question": "Is it?"} for n in range(3)],
        },
        "coco_captions": {
            "images": [{"id": 9, "file_name": "a.png"}],
            "annotations": [{"id": n, "image_id": 9, "caption": "A snail."} for n in range(3)],
        },
        "llava": [ROWS[5]] * 3,
        "mdetr": {
            "images": [{"id": 9, "file_name": "a.png", "width": 6, "height": 6, "caption": "it"}],
            "annotations": [{"image_id": 9, "bbox": [1, 1, 2, 2]}],
        },
        "vist": {
            "annotations": [
                [{"story_id": "7", "worker_arranged_photo_order": n, "photo_flickr_id": "a", "text": "One."}]
                for n in range(3)
            ]
        },
    }
    form = rng.choice(list(contents))
    file = folder / "a.json"
    file.write_text(json.dumps(odd(contents[form], rng)))
    return [file], [file], {"image_paths": [images(folder)], "form": form}


KINDS: tuple[Callable[[Path, random.Random], Made], ...] = (
    *(pairs, lines, zipped_lines, tables, image_archive, references, stories, annotations),
)


def images(folder: Path) -> Path:
    """A folder of the images that the rows name."""
    place = folder / "images"
    place.mkdir(exist_ok=True)
    for name, data in {**IMAGES, "a.jpg": IMAGES["a.png"], "COCO_val_000000000009.jpg": IMAGES["a.png"]}.items():
        (place / name).write_bytes(data)
    return place


def encoded_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def odd_rows(rng: random.Random) -> list[Any]:
    """Rows of all kinds, in some of which a value is an odd one."""
    return [odd(row, rng) if rng.random() < 0.5 else row for row in rng.sample(ROWS, 5)]


def odd(value: Any, rng: random.Random) -> Any:
    """The value with one part of it, however deep, replaced, left out or doubled."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case _:
            holder[key] = rng.choice(ODD)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few of them changed."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.choice((1, 4, 8, 100, 600)))
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = changed[at:end]
            case 4:
                awkward = rng.choice(AWKWARD)
                changed[at : at + len(awkward)] = awkward
            case _:
                changed[at : at + 8] = rng.randbytes(min(8, len(changed) - at))
    return bytes(changed)


class TookTooLong(BaseException):
    """A case is still at work; no handler of the product takes it for an error of its own."""


def run_case(seed: int, case: int) -> str:
    """Make a data set, damage it, and index it; returns how that ended. Raises AssertionError if it must not end so."""
    rng = random.Random(f"{seed} {case}")
    kind = KINDS[case % len(KINDS)]
    with tempfile.TemporaryDirectory() as name, limited():
        folder = Path(name) / "data"
        folder.mkdir()
        files, paths, options = kind(folder, rng)
        file = rng.choice(files)
        file.write_bytes(damaged(file.read_bytes(), rng))
        out = Path(name) / "out"
        os.chdir(name)
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                ended = index_and_read(paths, out, options)
        finally:
            os.chdir("/")
        assert "\x1b" not in said.getvalue()
        assert not (Path(name) / MARK).exists(), "a pickle was run"
        assert not list(out.rglob("*.part")), "a file is half-written"
    return ended


def index_and_read(paths: list[Path], out: Path, options: dict[str, Any]) -> str:
    """Every way for the index to end but these is an error: a sentence, or samples that can be read or say why not."""
    try:
        manifest = make_index(paths, out, max_broken=1.0, **options)
    except ValueError as error:
        refusal: ValueError | None = error
    else:
        refusal = None
    if refusal is not None:
        assert type(refusal).__name__ in ("ValueError", "UsageError"), f"{type(refusal).__name__}: {refusal}"
        assert len(str(refusal)) > 20
        return "refused"
    num_broken = sum(shard.num_broken for shard in manifest.shards)
    assert len((out / PROBLEMS).read_text().splitlines()) == num_broken, "not every broken one is named"
    for number in range(len(manifest)):
        with contextlib.suppress(BrokenSampleError):
            sample = load_manifest(out, ShardCache(out / "cache", 1 << 30))[number]
            assert all(isinstance(text, str) for text in sample.texts)
            for image in sample.images:
                with contextlib.suppress(BrokenSampleError):
                    assert len(image.read()) == image.size
    return "indexed, some broken" if num_broken else "indexed"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Neither endless time nor endless memory."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLong(f"more than {MAX_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_MORE_BYTES, hard))
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_damaged_data_is_indexed_or_refused() -> None:
    place = Path.cwd()
    try:
        ended = [run_case(0, case) for case in range(400)]
    finally:
        os.chdir(place)
    assert {"indexed", "indexed, some broken", "refused"} == set(ended)


def main() -> int:
    """Cases until the time is over; returns 1 if one of them ended as it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone")
    args = parser.parse_args()
    if args.case is not None:
        print(run_case(args.seed, args.case))
        return 0
    ends: dict[str, int] = {}
    end, case, num_findings = time.monotonic() + 60 * args.minutes, 0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() < end:
        try:
            how = run_case(args.seed, case)
        except (Exception, TookTooLong):
            how = "FINDING"
            num_findings += 1
            print(f"--seed {args.seed} --case {case} ({KINDS[case % len(KINDS)].__name__})\n{traceback.format_exc()}")
            sys.stdout.flush()
        ends[how] = ends.get(how, 0) + 1
        case += 1
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
    print(f"{case:,} cases: {ends}; memory grew by {more} MiB at most")
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main())
