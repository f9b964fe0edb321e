"""Data sets that are damaged, or made to do harm, through the command that indexes them."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.index import main, make_index
from trainer.data.sources.manifest import load_manifest
from trainer.data.sources.problems import MAX_NAMED, Problems
from trainer.data.sources.sample import BrokenSampleError

ROOT = Path(__file__).parents[2]
BOX = {"image": "a.png", "expression": "the snail", "box": [0, 0, 3, 3], "width": 6, "height": 6}
ASKED = {"image": "a.png", "question": "What is it?", "answer": "a snail"}


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def archive(file: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def pairs(*names: str) -> list[tuple[str, bytes]]:
    return [member for name in names for member in ((f"{name}.png", png()), (f"{name}.txt", name.encode()))]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with an image, links in a circle, a link out of it, and a named pipe."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "loop.png").symlink_to("loop2.png")
    (folder / "loop2.png").symlink_to("loop.png")
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def index(tmp_path: Path, rows: list[Any], images: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """The texts of the samples, and what is said of the others."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    make_index([file], tmp_path / "out", image_paths=[images], max_broken=0.9)
    manifest = load_manifest(tmp_path / "out")
    told = (tmp_path / "out" / "problems.txt").read_text().splitlines()
    return [manifest[number].texts for number in range(len(manifest))], told


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        pytest.param({**BOX, "width": 0, "height": 0}, "has 0 x 0 pixels; expected 1 or more", id="width-0"),
        pytest.param({**BOX, "width": -6, "box": [-3, 0, -1, 3]}, "has -6 x 6 pixels", id="negative-width"),
        pytest.param({**BOX, "box": [0, 0, 10**400, 3]}, "a number of more than 20 digits", id="400-digits"),
        pytest.param({**BOX, "width": 10**400}, "width is a number of more than 20 digits", id="400-digits-wide"),
        pytest.param({**BOX, "box": [0, 0, float("nan"), 3]}, "A number of the box is nan", id="nan"),
        pytest.param({**BOX, "box": "0033"}, "The box is '0033'; expected a list of four", id="text-as-box"),
        pytest.param({**BOX, "box": [True, True, 3, 3]}, "A number of the box is True", id="true-as-number"),
        pytest.param({"image": "a" * 300, "caption": "x"}, "cannot be looked up: File name too long", id="long-name"),
        pytest.param({"image": "a\0", "caption": "x"}, "'a\\x00' is not there", id="zero-byte"),
        pytest.param({"image": "loop.png", "caption": "x"}, "The image 'loop.png' is not there", id="loop-of-links"),
        pytest.param({"image": "pipe.png", "caption": "x"}, "The image 'pipe.png' is not there", id="named-pipe"),
        pytest.param({"image": "out.png", "caption": "x"}, "is a link that leads out of", id="link-out"),
        pytest.param({"image": "../secret.png", "caption": "x"}, "'../secret.png' is not there", id="name-out"),
        pytest.param({"image": "/etc/passwd", "caption": "x"}, "'/etc/passwd' is not there", id="absolute"),
        pytest.param({"image": "\x1b[31m\n", "caption": "x"}, r"'\x1b[31m\n' is not there", id="escape"),
        pytest.param({"image": "\udcff", "caption": "x"}, "is not there", id="half-a-pair"),
        pytest.param({"image": "a.png", "caption": "\ud800"}, "surrogates not allowed", id="half-a-pair-of-text"),
        pytest.param({**ASKED, "answer": None}, "has an unexpected form", id="no-answer"),
        pytest.param({**ASKED, "answer": ["a"]}, "The answer is ['a']; expected a text", id="answer-is-a-list"),
        pytest.param({"segments": [5]}, "has an unexpected form: AttributeError", id="no-segment"),
        pytest.param({"story": 5}, "has an unexpected form: TypeError", id="no-story"),
        pytest.param({"segments": [{"text": 5, "loss": True}]}, "A text is 5; expected a text", id="text-is-a-number"),
        pytest.param({"segments": [{"text": "a", "loss": "false"}]}, "loss is 'false'; expected true", id="loss-text"),
        pytest.param({"segments": [{"text": "a", "image": "a.png"}]}, "has a text and an image", id="both"),
        pytest.param({"texts": ["a"], "images": ["a.png"]}, "has a text and an image", id="both-at-a-place"),
        pytest.param(
            b'{"image": "a.png", "caption": "a", "caption": "b"}', "'caption' stands more than once", id="twice"
        ),
        pytest.param(b"[" * 100_000, "line 2: ", id="deep"),
        pytest.param(b'{"image": "a.png", "caption": ' + b"9" * 5000 + b"}", "line 2: ", id="5000-digits"),
        pytest.param(b"\xff\xfe{\0}\0", "not UTF-8", id="utf-16"),
        pytest.param(
            {"text_list": ["a"], "image_info": [{"image_name": "a.png", "matched_text_index": 0.5, "matched_sim": 1}]},
            "belongs to text 0.5",
            id="half-a-text",
        ),
        pytest.param(
            {
                "text_list": ["a"],
                "image_info": [{"image_name": "a.png", "matched_text_index": 0, "matched_sim": 10**400}],
            },
            "matched_sim is a number of more",
            id="similarity",
        ),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_kept(tmp_path, images, row, sentence):
    good = [{"image": "a.png", "caption": f"snail {number}"} for number in range(2)]
    texts, told = index(tmp_path, [good[0], row, good[1]], images)
    assert texts == [("snail 0",), ("snail 1",)]
    assert len(told) == 1
    assert told[0].startswith("../rows.jsonl: line 2: ")
    assert sentence in told[0]
    assert told[0].isprintable()


def test_a_byte_order_mark_loses_no_row(tmp_path, images):
    rows = [json.dumps({"image": "a.png", "caption": text}).encode() for text in ("one", "two")]
    assert index(tmp_path, [b"\xef\xbb\xbf" + rows[0] + b"\r", b"\xef\xbb\xbf" + rows[1]], images) == (
        [("one",), ("two",)],
        [],
    )
    file = archive(tmp_path / "a.tar", [("0.png", png()), ("0.txt", b"\xef\xbb\xbfa snail")])
    assert make_index([file], tmp_path / "pairs")[0].texts == ("a snail",)


def test_data_without_a_single_image_is_refused(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for rows in (
        [{"image": f"{number}.png", "caption": "a snail"} for number in range(200)],
        [{"texts": ["a snail", None], "images": [None, f"{number}.png"]} for number in range(200)],
    ):
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = [str(tmp_path / "a.jsonl"), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
        assert main([*arguments, "--max-broken", "1"]) == 2
        assert "None of the 200 images that the documents name was found. Say where" in capsys.readouterr().err


def test_both_samples_of_a_repeated_key_are_kept(tmp_path):
    file = archive(tmp_path / "a.tar", [*pairs("0"), ("0.png", png(1)), ("0.txt", b"again"), *pairs("1")])
    manifest = make_index([file], tmp_path / "out")
    assert [manifest[number].texts for number in range(3)] == [("0",), ("again",), ("1",)]
    assert manifest[1].images[0].read() == png(1)
    lonely = archive(tmp_path / "b.tar", [("0.png", png()), *pairs("0"), *pairs("1")])
    manifest = make_index([lonely], tmp_path / "lonely", max_broken=0.5)
    assert (len(manifest), manifest.shards[0].num_broken) == (2, 1)


def test_names_that_are_no_utf8_or_that_a_terminal_obeys(tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9\x1b[31m\n.tar")
    file = archive(tmp_path / name, [*pairs("0"), ("caf\udce9\x1b[31m.png", png())])
    assert main([str(file), "--out", str(tmp_path / "out"), "--max-broken", "0.5"]) == 0
    assert "broken: 1" in capsys.readouterr().out
    assert load_manifest(tmp_path / "out")[0].key == f"{name}/0"
    [line] = (tmp_path / "out" / "problems.txt").read_text().splitlines()
    assert line == r"../caf\udce9\x1b[31m\n.tar: 'caf\udce9\x1b[31m' has no caption, only png"


def zipped(file: Path, rows: int = 5, flag: int = 0, **fields: bytes) -> Path:
    """A zip of lines, with bits of its flags set, and with other bytes at places of its directory."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as whole:
        whole.writestr("a.jsonl", '{"image": "a.png", "caption": "a snail"}\n' * rows)
    data = bytearray(file.read_bytes())
    local, directory = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    data[local + 6] |= flag
    data[directory + 8] |= flag
    for place, value in fields.items():
        at = directory + {"method": 10, "packed": 20, "size": 24, "offset": 42}[place]
        data[at : at + len(value)] = value
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda file: zipped(file, flag=1), "is encrypted"),
        (lambda file: zipped(file, method=b"\x63\0"), "cannot be read on: That compression method"),
        (lambda file: zipped(file, packed=struct.pack("<I", 1 << 30)), "declare more bytes than it has"),
        (lambda file: zipped(file, size=struct.pack("<I", 1 << 31)), "declares 2,147,483,648 bytes, made of"),
        (lambda file: zipped(file, offset=struct.pack("<I", 1 << 30)), "cannot be read on"),
        (lambda file: file.write_bytes(zipped(file).read_bytes()[:60]), "cannot be read on"),
    ],
    ids=["encrypted", "method", "packed", "bomb", "offset", "cut"],
)
def test_a_bad_zip_is_told(tmp_path, images, capsys, make, sentence):
    make(tmp_path / "a.jsonl.zip")
    (tmp_path / "b.jsonl").write_text('{"image": "a.png", "caption": "a snail"}\n')
    arguments = [str(tmp_path), "--images", str(images), "--out", str(tmp_path / "out"), "--max-broken", "0.5"]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "../a.jsonl.zip was not read to its end: " in said
    assert sentence in said


@pytest.mark.parametrize(
    "size",
    [b"\xff" * 10 + b"\xfe\x00", b"\xff" * 10 + b"\xfc\x00", b"\x80" + b"\x7f" * 11],
    ids=["leads-to-itself", "leads-back", "huge"],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_member_of_an_impossible_size_ends_the_archive(tmp_path, size, kind):
    info = tarfile.TarInfo("x.png")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    file = archive(tmp_path / "a.tar", pairs("0"))
    whole = file.read_bytes()
    file.write_bytes(whole[: 4 * 512] + bytes(header) + b"\0" * 4096)
    manifest = make_index([file], tmp_path / "out", max_broken=0.9)
    assert manifest[0].texts == ("0",)
    assert len(manifest) == 1
    assert manifest.shards[0].num_broken in (1, 2)


def test_a_sparse_file_of_a_terabyte_costs_no_memory(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    file = tmp_path / "a.tar"
    file.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(file, 1 << 41)
    with pytest.raises(ValueError, match=r"a header declares 1099511627776 bytes; the limit is 1,048,576"):
        make_index([file], tmp_path / "out")


@pytest.mark.parametrize("place", ["shard", "folder", "images"])
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device", "a link to nothing", "not there"])
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path, images, place, kind, capsys, monkeypatch):
    path = tmp_path / "x.tar"
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "a named pipe":
            os.mkfifo(path)
        elif kind == "a socket":
            monkeypatch.chdir(tmp_path)  # the name of a socket may have 107 bytes
            bound.bind("x.tar")
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        elif kind == "a link to nothing":
            path.symlink_to("nothing")
        elif place == "folder":
            pytest.skip("a folder holds nothing that is not there")
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"image": "a.png", "caption": "a snail"}\n')
        given = {"shard": [path], "folder": [tmp_path], "images": [rows, "--images", path]}[place]
        assert main([*map(str, given), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{path} is {kind};" in said or f"--images is {path}, which is {kind};" in said


def test_an_image_that_becomes_a_pipe_is_not_waited_for(tmp_path, images):
    texts, _ = index(tmp_path, [{"image": "a.png", "caption": "a snail"}], images)
    assert texts == [("a snail",)]
    (images / "a.png").unlink()
    os.mkfifo(images / "a.png")
    [image] = load_manifest(tmp_path / "out")[0].images
    with pytest.raises(BrokenSampleError, match="It is a named pipe, not a file"):
        image.read()


def test_files_that_differ_only_in_how_they_are_reached_are_read_once(tmp_path):
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    file = archive(data / "deep" / "a.tar", pairs("0"))
    (data / "again").symlink_to(data)
    (data / "b.tar").symlink_to(file)
    assert len(make_index([data, file, data / "deep"], tmp_path / "out")) == 1


def test_compressed_shards_are_not_passed_over_in_silence(tmp_path, capsys):
    archive(tmp_path / "a.tar", pairs("0"))
    (tmp_path / "b.tar.gz").write_bytes(b"\x1f\x8b")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "b.tar.gz is compressed, and is not read" in capsys.readouterr().err


def test_a_file_that_is_written_meanwhile_is_told(tmp_path, monkeypatch):
    from trainer.data import index_shard

    file, find = archive(tmp_path / "a.tar", pairs("0")), index_shard.find_pairs

    def find_and_append(path, problems):
        found = find(path, problems)
        with path.open("ab") as more:
            more.write(b"\0")
        return found

    monkeypatch.setattr(index_shard, "find_pairs", find_and_append)
    with pytest.raises(ValueError, match=r"a.tar has changed while it was read. Give the command again"):
        make_index([file], tmp_path / "out")
    monkeypatch.undo()
    assert len(make_index([file], tmp_path / "out")) == 1


def test_a_file_that_vanishes_or_may_not_be_read_ends_the_command_and_the_same_goes_on(tmp_path, monkeypatch, capsys):
    files = [archive(tmp_path / f"{number}.tar", pairs("0")) for number in range(2)]
    from trainer.data.sources import tar

    opened = tar.open_place

    def refuse(place):
        if str(place) == str(files[1]):
            raise PermissionError(13, "Permission denied", str(place))
        return opened(place)

    monkeypatch.setattr(tar, "open_place", refuse)
    arguments = [*map(str, files), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert f"{files[1]} cannot be read: Permission denied. Mend that, or leave the file out" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(arguments) == 0


def test_two_commands_do_not_write_one_index(tmp_path, capsys):
    from models.directory_lock import directory_lock

    file = archive(tmp_path / "a.tar", pairs("0"))
    (tmp_path / "out").mkdir()
    with directory_lock(tmp_path / "out"):
        assert main([str(file), "--out", str(tmp_path / "out")]) == 2
    assert "Another process is writing into" in capsys.readouterr().err
    assert main([str(file), "--out", str(tmp_path / "out")]) == 0


def test_every_flipped_bit_of_an_index_is_noticed(tmp_path, images):
    index(tmp_path, [{"image": "a.png", "caption": f"snail {number}"} for number in range(3)], images)
    out = tmp_path / "out"
    for name in ("manifest.json", "samples.npy", "parts/000000.documents"):
        whole = (out / name).read_bytes()
        for bit in range(0, 8 * len(whole), 11):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            (out / name).write_bytes(data)
            assert not reads_all(out), (name, bit)
        (out / name).write_bytes(whole)
    assert reads_all(out)


def reads_all(out: Path) -> bool:
    """Whether an index is read without an error, by a process that has not read it before."""
    from trainer.data.sources.places import open_places

    open_places.cache_clear()
    try:
        manifest = load_manifest(out)
        for number in range(len(manifest)):
            assert manifest[number].texts == (f"snail {number}",)
    except ValueError:  # BrokenSampleError, too
        return False
    return True


def test_a_table_that_is_cut_off_while_it_is_read_is_an_error_and_not_the_end(tmp_path):
    """Mapped into memory, it would be SIGBUS."""
    manifest = make_index([archive(tmp_path / "a.tar", pairs("0", "1"))], tmp_path / "out")
    assert manifest[1].texts == ("1",)
    os.truncate(tmp_path / "out" / "samples.npy", 100)
    with pytest.raises(BrokenSampleError, match=r"The index cannot be read: .*samples.npy ends before sample 1"):
        manifest[1]
    assert manifest.key(1) == "?/1"


def test_problems_of_endless_files_do_not_fill_the_memory():
    problems = Problems()
    for number in range(MAX_NAMED + 5):
        problems.add(f"line {number}" + "x" * 1000)
    assert len(problems.sentences) == MAX_NAMED
    assert problems.named()[-1] == "and 5 more"
    assert max(map(len, problems.named())) < 510


def limited(code: str, *arguments: object, more_bytes: int = 1 << 30) -> subprocess.CompletedProcess[str]:
    """Python code in a process that may take only so much more memory than it has once everything is imported."""
    start = (
        "import resource, sys; from trainer.data.index import main; import numpy, pyarrow.parquet\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {more_bytes},) * 2)\n"
    )
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_nine_bytes_of_pickle_take_no_gigabytes(tmp_path):
    (tmp_path / "instances.json").write_text("{}")
    for data in (b"]r\xff\xff\xff\x0f0.", b"]p268435455\n0.", b"\x80\x05\x96" + struct.pack("<Q", 1 << 33)):
        (tmp_path / "refs(unc).p").write_bytes(data)
        run = limited("sys.exit(main(sys.argv[1:]))", tmp_path, "--form", "refcoco", "--out", tmp_path / "out")
        assert run.returncode == 2
        assert "cannot be read as plain data: UnpicklingError: it " in run.stderr


def npy(shape: tuple[int, ...], data: bytes = b"", descr: str = "<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize("shape", [(10**13,), (-1,), (10**13, 0), (2**31, 2**31)], ids=str)
def test_an_array_is_not_believed_to_be_larger_than_its_file(tmp_path, shape):
    from trainer.data.sources.pickles import load_array

    (tmp_path / "a.npy").write_bytes(npy(shape, b"\0" * 16))
    with pytest.raises(ValueError, match="its header declares an array of shape"):
        load_array(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with pytest.raises(ValueError, match="its header declares an array of shape"):
        load_array(tmp_path / "a.npy")


def test_one_text_of_a_parquet_file_that_is_none_loses_one_row(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    captions = arrow.array([b"one", b"\xff\xfe", b"three"])
    captions = arrow.StringArray.from_buffers(3, captions.buffers()[1], captions.buffers()[2])
    parquet.write_table(arrow.table({"image": [png()] * 3, "caption": captions}), tmp_path / "a.parquet")
    manifest = make_index([tmp_path / "a.parquet"], tmp_path / "out", max_broken=0.5)
    assert [manifest[number].texts for number in range(2)] == [("one",), ("three",)]
    assert "row 1: 'utf-8' codec can't decode" in (tmp_path / "out" / "problems.txt").read_text()


def test_a_parquet_file_of_other_columns_is_told(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"pixels": [1] * 50}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"1 of 1 samples .* it has the columns \['pixels'\]; expected some of"):
        make_index([tmp_path / "a.parquet"], tmp_path / "out")


def test_columns_without_a_value_are_no_fields(tmp_path, images):
    """A table of parquet has every field in every row."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    segments = [{"text": "One.", "loss": False, "image": None}, {"text": None, "loss": None, "image": "a.png"}]
    rows = [{"segments": segments, "caption": None}, {"segments": None, "image": "a.png", "caption": "Two."}]
    rows[0]["image"] = None
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    manifest = make_index([tmp_path / "a.parquet"], tmp_path / "out", image_paths=[images])
    assert [manifest[number].texts for number in range(2)] == [("One.",), ("Two.",)]


@pytest.mark.parametrize(("option", "value"), [("--max-broken", "nan"), ("--max-broken", "-1"), ("--num-workers", "0")])
def test_options_that_mean_nothing_are_refused(tmp_path, capsys, option, value):
    file = archive(tmp_path / "a.tar", pairs("0"))
    assert main([str(file), "--out", str(tmp_path / "out"), option, value]) == 2
    assert f"{option} is {value}; expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


SLOW_LINES = 300_000


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_no_process_is_left_at_work(tmp_path, images, number):
    """The processes that read shards end with the command, in whatever way that ends."""
    row = json.dumps({"image": "a.png", "caption": "a snail"}) + "\n"
    for shard in range(2):
        (tmp_path / f"{shard}.jsonl").write_text(row * SLOW_LINES)
    command = [sys.executable, "-m", "trainer.data.index", *map(str, sorted(tmp_path.glob("*.jsonl")))]
    command += ["--images", str(images), "--out", str(tmp_path / "out"), "--num-workers", "2"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    try:
        while len(children_of(run.pid)) < 2 or not list(tmp_path.glob("out/parts/*.part")):
            assert run.poll() is None
            time.sleep(0.02)
        readers = children_of(run.pid)
        run.send_signal(number)
        _, said = run.communicate(timeout=20)
    finally:
        run.kill()
        run.wait()
    assert b"Traceback" not in said
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{reader}").exists() for reader in readers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
