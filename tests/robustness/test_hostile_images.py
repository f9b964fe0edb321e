"""Image files that want to harm: refused in a sentence, quickly and in little memory, or read as they look."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from models.images.image_file import open_image
from models.images.rgb import UnreadableImageError
from tests.robustness.fuzz_images import fuzz, originals

ROOT = Path(__file__).parents[2]

MEASURED = """
import resource, sys
from models.images.image_file import open_image
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(open_image(data, min_side=64).size, end=" ")
except ValueError as error:
    print(error, end=" ")
print("grown by", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MB")
"""


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def measured(data: bytes, tmp_path: Path) -> tuple[str, int]:
    """What comes of a file in a process of its own, and by how many MB that grew."""
    file = tmp_path / "image"
    file.write_bytes(data)
    command = [sys.executable, "-c", MEASURED, str(file)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    outcome, _, growth = printed.partition(" grown by ")
    return outcome, int(growth.split()[0])


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (2**31 - 1, 1), (65_535, 65_535), (0, 5)])
def test_what_declares_too_much_is_refused_by_its_header(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(UnreadableImageError, match=r"pixels|cannot be decoded"):
        open_image(png(width, height, chunk(b"IDAT", b"")))


def test_a_small_file_of_many_pixels_costs_little(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (12_000, 12_000)).save(file, "PNG")
    outcome, growth = measured(file.getvalue(), tmp_path)
    assert "has 12000 x 12000 pixels; the limit is 64,000,000" in outcome
    assert growth < 20


def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8_000, 7_000), "red").save(file, "JPEG")
    outcome, growth = measured(file.getvalue(), tmp_path)
    assert outcome == "(77, 67)"
    assert growth < 60, "whole, it has 224 MB"


def test_text_and_profiles_that_unpack_to_gigabytes_are_not_unpacked(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")):
        outcome, growth = measured(png(4, 4, chunk(kind, head + bomb), chunk(b"IDAT", b"")), tmp_path)
        assert "cannot be decoded" in outcome
        assert growth < 100


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_ends_anywhere_is_an_image_or_a_sentence() -> None:
    for data in originals():
        for end in {*range(0, 200, 7), *range(200, len(data), max(1, len(data) // 40))}:
            with contextlib.suppress(UnreadableImageError):
                assert open_image(data[:end]).mode == "RGB"


@pytest.mark.filterwarnings("ignore")
def test_other_formats_are_not_tried() -> None:
    """Pillow knows some fifty formats, PostScript among them, which runs a program."""
    files = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),
        b"<svg/>",
        b"",
    )
    for data in files:
        with pytest.raises(UnreadableImageError, match="it is no JPEG, PNG, WEBP or GIF file"):
            open_image(data)


@pytest.mark.slow
def test_mutated_files() -> None:
    counted, findings = fuzz(seed=0, seconds=20)
    assert not findings
    assert counted["equal"] > 20
    assert counted["refused"] > 20
