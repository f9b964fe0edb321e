"""Mutated image files through the one place that reads images: an image as Pillow and its EXIF orientation show it, or
a sentence; never another exception, a crash, a hang, or much memory.

    python -m tests.robustness.fuzz_images --minutes 30 --seed 0

A finding is printed with the seed and the number of its case; `--seed S --case N` runs that case alone.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence, PngImagePlugin

from models.images.image_file import FORMATS, open_image
from models.images.rgb import UnreadableImageError, to_rgb

MAX_PIXELS = 2_000_000
MAX_SECONDS = 5.0
"""Of one case. A usual one takes milliseconds."""

MAX_GROWTH_MB = 400
"""How much more memory than at the beginning the process of the cases may ever have had."""

CASES_PER_PROCESS = 2000


def originals() -> list[bytes]:
    """Small files of every format and mode that is read, and of some that only a caller's `PIL.Image.open` reads."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 36, 3), np.uint8)).resize((72, 48))
    rgba = rgb.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(rgb.size))
    palette = rgb.quantize(16)
    grey_16 = Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a snail"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    profile = _srgb_under_another_name()
    files: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("JPEG", rgb, {"exif": exif}),
        ("JPEG", rgb, {"progressive": True, "icc_profile": profile}),
        ("JPEG", rgb.convert("L"), {}),
        ("JPEG", rgb.convert("CMYK"), {"quality": 90}),
        ("MPO", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("PNG", rgb, {"exif": exif, "icc_profile": profile}),
        ("PNG", rgba, {}),
        ("PNG", rgba.convert("LA"), {}),
        ("PNG", palette, {"transparency": 3}),
        ("PNG", rgb.convert("L"), {"transparency": 100}),
        ("PNG", rgb, {"transparency": (1, 2, 3)}),
        ("PNG", rgb.convert("1"), {}),
        ("PNG", grey_16, {"transparency": 7}),
        ("PNG", rgb, {"save_all": True, "append_images": [rgb.rotate(180), rgb.rotate(90)]}),
        ("WEBP", rgb, {"exif": exif}),
        ("WEBP", rgba, {"lossless": True}),
        ("WEBP", rgba, {"save_all": True, "append_images": [rgba.rotate(180)]}),
        ("GIF", palette, {"transparency": 2}),
        ("GIF", rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}),
        ("BMP", rgb, {}),
        ("PPM", rgb, {}),
        ("TIFF", rgba, {"exif": exif}),
        ("TIFF", rgb.convert("L"), {"compression": "tiff_lzw"}),
        ("TIFF", grey_16, {}),
    ]
    stored = []
    for kind, image, options in files:
        file = io.BytesIO()
        image.save(file, kind, **options)  # type: ignore[arg-type]
        stored.append(file.getvalue())
    text = PngImagePlugin.PngInfo()
    text.add_text("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>', zip=True)
    file = io.BytesIO()
    rgb.save(file, "PNG", pnginfo=text)
    return [*stored, file.getvalue()]


def _srgb_under_another_name() -> bytes:
    from PIL import ImageCms

    stored = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return stored.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def mutated(files: list[bytes], rng: np.random.Generator) -> bytes:
    """One of the files with some damage; sometimes with none."""
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 5])):
        kind, at = rng.integers(8), int(rng.integers(len(data))) if data else 0
        if rng.random() < 0.5:
            at = min(at, int(rng.integers(1, 200)))  # headers are at the beginning
        length = int(rng.integers(1, 40))
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
        elif kind == 5:
            other = files[rng.integers(len(files))]
            data[at:] = other[int(rng.integers(len(other))) :]
        elif kind == 6:
            width = int(rng.choice([1, 2, 4]))
            order = rng.choice(["big", "little"])
            extreme = int(rng.choice([0, 1, 255, 2 ** (8 * width) - 1, 2 ** (8 * width - 1)])) % 2 ** (8 * width)
            data[at : at + width] = extreme.to_bytes(width, str(order))  # type: ignore[arg-type]
        else:
            data[at : at + length] = bytes(length)
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        data = _with_right_checksums(data)
    return bytes(data)


def _with_right_checksums(data: bytearray) -> bytearray:
    """Damage in a PNG's chunks gets as far as the decoders."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def check(data: bytes, rng: np.random.Generator) -> str:
    """Read a file in every way; returns what came of it.

    Raises:
        AssertionError: a finding.
    """
    found = _read(data)
    small = _read(data, min_side=int(rng.integers(1, 40)))
    if found is None or small is None:
        assert found is small, f"read whole: {found}; where it may come out smaller: {small}"
    else:
        assert small.mode == "RGB"
        aspects = [np.log(image.width / image.height) for image in (small, found)]
        assert abs(aspects[0] - aspects[1]) < 1.0 or min(small.size) < 4, "another shape where it comes out smaller"
    _read_by_caller(data)
    expected = _as_pillow_shows_it(data)
    if expected is None or found is None:
        assert (expected is None) == (found is None), f"Pillow reads {expected}, we {found}"
        return "refused"
    sizes, pixels = expected
    assert found.size in sizes, f"{found.size}, but Pillow has {sizes}"
    assert not found.info
    if pixels is not None:
        difference = int(np.abs(np.asarray(found).astype(int) - pixels).max())
        assert difference <= 1, f"colours differ by {difference} from Pillow's"
        return "equal"
    return "read"


def _read(data: bytes, min_side: int | None = None) -> Image.Image | None:
    try:
        return open_image(data, max_pixels=MAX_PIXELS, min_side=min_side)
    except UnreadableImageError as error:
        sentence = str(error)
    assert sentence.isprintable(), "the sentence holds control characters"
    assert len(sentence) < 1000, "the sentence is long"
    return None


def _read_by_caller(data: bytes) -> None:
    """What a caller opens, in more formats."""
    try:
        image = Image.open(io.BytesIO(data), formats=(*FORMATS, "BMP", "PPM", "TIFF"))
    except Exception:  # a caller's own
        return
    try:
        to_rgb(image, max_pixels=MAX_PIXELS)
    except UnreadableImageError:
        return


def _as_pillow_shows_it(data: bytes) -> tuple[set[tuple[int, int]], np.ndarray | None] | None:
    """The sizes that an image may have, and its pixels [h, w, 3] where Pillow's own conversions tell them; None where
    it cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not 0 < image.width * image.height <= MAX_PIXELS:
                return None
            first = next(iter(ImageSequence.Iterator(image)))
            first.load()
            try:
                upright = ImageOps.exif_transpose(first)
            except Exception:  # damaged EXIF, which no viewer minds
                return {first.size, first.size[::-1]}, None
            if image.mode == "I" or image.mode.startswith("I;16") or image.info.get("icc_profile"):
                return {upright.size}, None
            if not upright.has_transparency_data:
                return {upright.size}, np.asarray(upright.convert("RGB")).astype(int)
            rgba = np.asarray(upright.convert("RGBA")).astype(float)
            share = rgba[..., 3:] / 255
            return {upright.size}, np.rint(rgba[..., :3] * share + 255 * (1 - share)).astype(int)
    except Exception:  # Pillow's errors are of many kinds
        return None


def run_case(files: list[bytes], seed: int, case: int) -> str:
    """One case; a finding is an AssertionError, or whatever else is raised."""
    rng = np.random.default_rng([seed, case])
    data = mutated(files, rng)
    start = time.process_time()
    outcome = check(data, rng)
    seconds = time.process_time() - start
    assert seconds < MAX_SECONDS, f"it took {seconds:.1f} s"
    return outcome


def _run_cases(seed: int, first: int, count: int, place, outcomes) -> None:  # type: ignore[no-untyped-def]
    """In a process of its own, so that a crash is a finding too."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff tells everything that it finds odd
    files = originals()
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counted: Counter[str] = Counter()
    for case in range(first, first + count):
        place.value = case
        try:
            counted[run_case(files, seed, case)] += 1
            grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
            assert grown_mb < MAX_GROWTH_MB, f"memory has grown by {grown_mb:.0f} MB"
        except Exception as error:
            outcomes.put(("finding", f"seed {seed} case {case}: {type(error).__name__}: {error}"))
            if "memory has grown" in str(error):
                break
    place.value = first + count
    outcomes.put(("counted", dict(counted)))


def fuzz(seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Cases until the time is over; how many came to what, and the findings."""
    context = multiprocessing.get_context("spawn")
    place, outcomes = context.Value("q", 0), context.Queue()
    counted: Counter[str] = Counter()
    findings: list[str] = []
    end, first = time.monotonic() + seconds, 0
    count = min(CASES_PER_PROCESS, max(50, int(seconds * 20)))
    while time.monotonic() < end:
        process = context.Process(target=_run_cases, args=(seed, first, count, place, outcomes))
        process.start()
        last, moved = -1, time.monotonic()
        while process.is_alive() or not outcomes.empty():
            while not outcomes.empty():
                kind, content = outcomes.get()
                if kind == "counted":
                    counted.update(content)
                else:
                    findings.append(content)
                    print(content, flush=True)
            if place.value != last:
                last, moved = place.value, time.monotonic()
            elif time.monotonic() - moved > 60:
                process.kill()
                findings.append(f"seed {seed} case {last}: it hangs")
                print(findings[-1], flush=True)
                break
            process.join(0.1)
        process.join()
        if process.exitcode:
            findings.append(f"seed {seed} case {place.value}: the process ended with {process.exitcode}")
            print(findings[-1], flush=True)
            first = place.value + 1
        else:
            first += count
    return counted, findings


def main() -> int:
    """The command line; returns the exit status: 1 for findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one; its file is written to fuzzed_image.bin")
    given = parser.parse_args()
    if given.case is not None:
        warnings.simplefilter("ignore")
        files = originals()
        Path("fuzzed_image.bin").write_bytes(mutated(files, np.random.default_rng([given.seed, given.case])))
        print(run_case(files, given.seed, given.case))
        return 0
    counted, findings = fuzz(given.seed, given.minutes * 60)
    print(f"{counted.total()} cases: {dict(counted)}; {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
