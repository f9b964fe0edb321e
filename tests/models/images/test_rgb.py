"""Images as a person sees them. Expected colours are written down, not computed by the code under test."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from models.images.image_file import open_image
from models.images.rgb import UnreadableImageError, to_rgb

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(image: Image.Image) -> list[object]:
    """Top left, top right, bottom left, bottom right, to the nearest full colour."""
    right, bottom = image.width - 1, image.height - 1
    places = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    return [tuple(255 * round(value / 255) for value in image.getpixel(place)) for place in places]  # type: ignore[union-attr, arg-type]


def four_colours() -> Image.Image:
    image = Image.new("RGB", (64, 32), WHITE)
    for colour, place in ((RED, (0, 0)), (GREEN, (32, 0)), (BLUE, (0, 16))):
        image.paste(colour, (*place, place[0] + 32, place[1] + 16))
    return image


# For each orientation, where the first row and the first column of what is stored belong (EXIF 2.3, tag 0x0112).
STORED_AS = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),  # first row is the right side: turn it clockwise
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_every_orientation_is_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = STORED_AS[orientation](four_colours())
    file = io.BytesIO()
    stored.save(file, kind, exif=exif)
    image = Image.open(file)
    seen = to_rgb(image)
    assert seen.size == (64, 32)
    assert corners(seen) == [RED, GREEN, BLUE, WHITE]
    assert corners(to_rgb(seen)) == [RED, GREEN, BLUE, WHITE], "nothing is turned twice"
    assert corners(to_rgb(ImageOps.exif_transpose(image))) == [RED, GREEN, BLUE, WHITE]
    if kind != "TIFF":  # no format of open_image
        assert corners(open_image(file.getvalue(), min_side=4)) == [RED, GREEN, BLUE, WHITE]
        as_stored = open_image(file.getvalue(), upright=False)
        assert corners(as_stored) == corners(to_rgb(as_stored)) == corners(stored)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_orientation_out_of_range_or_a_damaged_one_is_none() -> None:
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        file = io.BytesIO()
        four_colours().save(file, "JPEG", exif=exif)
        assert corners(open_image(file.getvalue())) == [RED, GREEN, BLUE, WHITE]
    file = io.BytesIO()
    four_colours().save(file, "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert corners(open_image(file.getvalue())) == [RED, GREEN, BLUE, WHITE]


def palette_with_alpha() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *RED], "RGB")
    image.paste(0, (0, 0, 4, 8))
    image.info["transparency"] = 0
    return image


def grey_with_colour_key() -> Image.Image:
    image = Image.new("L", (8, 8), 10)
    image.paste(0, (0, 0, 4, 8))
    image.info["transparency"] = 0
    return image


def half(mode: str, hidden: object, seen: object) -> Image.Image:
    image = Image.new(mode, (8, 8), seen)  # type: ignore[arg-type]
    image.paste(hidden, (0, 0, 4, 8))  # type: ignore[arg-type]
    return image


@pytest.mark.parametrize(
    ("image", "seen"),
    [
        (half("RGBA", (0, 0, 0, 0), (*RED, 255)), RED),
        (half("RGBA", (9, 200, 9, 0), (*BLUE, 255)), BLUE),
        (half("LA", (0, 0), (10, 255)), (10, 10, 10)),
        (half("RGBA", (0, 0, 0, 0), (*RED, 255)).convert("RGBa"), RED),
        (half("LA", (0, 0), (10, 255)).convert("La"), (10, 10, 10)),
        (palette_with_alpha(), RED),
        (palette_with_alpha().convert("PA"), RED),
        (grey_with_colour_key(), (10, 10, 10)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_what_is_transparent_shows_white(image: Image.Image, seen: tuple[int, int, int]) -> None:
    for one in (to_rgb(image), to_rgb(image.resize((512, 512), Image.Resampling.NEAREST), min_side=8)):
        assert one.mode == "RGB"
        assert [one.getpixel((0, one.height // 2)), one.getpixel((one.width - 1, one.height // 2))] == [WHITE, seen]


def test_half_transparent_is_half_seen() -> None:
    assert to_rgb(Image.new("RGBA", (3, 3), (0, 0, 0, 128))).getpixel((1, 1)) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_transparency_of_every_format(kind: str) -> None:
    file = io.BytesIO()
    half("RGBA", (0, 0, 0, 0), (*RED, 255)).save(file, kind, lossless=True)
    image = open_image(file.getvalue())
    assert [image.getpixel((0, 4)), image.getpixel((7, 4))] == [WHITE, RED]


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_bits_of_grey(dtype: str) -> None:
    grey = np.linspace(0, 65535, 256).astype(dtype).reshape(16, 16)
    image = Image.fromarray(grey)
    assert image.mode.startswith("I;16")
    assert np.asarray(to_rgb(image))[..., 1].ravel().tolist() == list(range(256))
    file = io.BytesIO()
    Image.fromarray(grey.astype("<u2")).save(file, "PNG")
    assert np.asarray(open_image(file.getvalue()))[..., 0].ravel().tolist() == list(range(256))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(grey.astype("<u2")).save(file := io.BytesIO(), "PNG", exif=exif)
    assert np.asarray(open_image(file.getvalue()))[..., 0].ravel().tolist() == list(range(255, -1, -1))


def test_sixteen_bits_of_a_portable_grey_map() -> None:
    data = b"P5 2 1 65535\n" + np.array([0x8080, 0xFFFF], ">u2").tobytes()
    assert np.asarray(to_rgb(Image.open(io.BytesIO(data))))[0, :, 0].tolist() == [128, 255]


def test_floats_are_shares_of_white() -> None:
    assert np.asarray(to_rgb(Image.fromarray(np.full((2, 2), 0.5, np.float32)))).tolist() == [[[128] * 3] * 2] * 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full((2, 2), 200.0, np.float32), "values from 200 to 200; expected 0 to 1, where 1 is white"),
        (np.array([[0, np.nan]], np.float32), "values from nan to nan"),
        (np.array([[-1, 0.5]], np.float32), "values from -1 to 0.5"),
        (np.array([[3, 100000]], np.int32), "mode 'I', 32-bit integers, which do not say which number is white"),
    ],
)
def test_numbers_without_a_white_are_refused(values: np.ndarray, sentence: str) -> None:
    with pytest.raises(UnreadableImageError, match=sentence):
        to_rgb(Image.fromarray(values))


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("1", 1, WHITE),
        ("L", 7, (7, 7, 7)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("YCbCr", (255, 128, 128), WHITE),
        ("HSV", (0, 255, 255), RED),
        ("RGBX", (*RED, 0), RED),
        ("LAB", (255, 128, 128), WHITE),
    ],
)
def test_other_modes(mode: str, colour: object, seen: tuple[int, int, int]) -> None:
    image = Image.new(mode, (4, 4), colour)  # type: ignore[arg-type]
    assert np.abs(np.subtract(to_rgb(image).getpixel((2, 2)), seen)).max() <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize("colour", [(0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 200)])
def test_jpegs_of_four_inks(colour: tuple[int, ...]) -> None:
    """Adobe's inks are stored inverted, and Pillow writes them like that."""
    file = io.BytesIO()
    Image.new("CMYK", (32, 32), colour).save(file, "JPEG", quality=100)
    assert b"Adobe" in file.getvalue()
    cyan, magenta, yellow, black = (1 - ink / 255 for ink in colour)
    expected = [round(255 * share * black) for share in (cyan, magenta, yellow)]
    found = open_image(file.getvalue()).getpixel((9, 9))
    assert np.abs(np.subtract(found, expected)).max() <= 3  # type: ignore[arg-type]


def test_a_profile_is_applied_once_and_a_damaged_one_is_ignored() -> None:
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", srgb[:200], swapped, b""):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (250, 100, 20)).save(file, "PNG", icc_profile=profile)
        assert open_image(file.getvalue()).getpixel((1, 1)) == (250, 100, 20)
    # The same profile with red's and green's primaries exchanged: what is stored as red is green.
    tags = {srgb[at : at + 4]: at for at in range(132, 132 + 12 * int.from_bytes(srgb[128:132], "big"), 12)}
    exchanged = bytearray(srgb)
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    exchanged[red + 4 : red + 12], exchanged[green + 4 : green + 12] = (
        exchanged[green + 4 : green + 12],
        exchanged[red + 4 : red + 12],
    )
    exchanged_profile = bytes(exchanged).replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    file = io.BytesIO()
    Image.new("RGB", (4, 4), RED).save(file, "PNG", icc_profile=exchanged_profile)
    image = open_image(file.getvalue())
    assert np.abs(np.subtract(image.getpixel((1, 1)), GREEN)).max() <= 3  # type: ignore[arg-type]
    assert to_rgb(image).tobytes() == image.tobytes()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert Image.open(file).n_frames == 3  # type: ignore[attr-defined]
    assert open_image(file.getvalue()).getpixel((4, 4)) == RED


def test_the_given_image_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    four_colours().save(file, "JPEG", exif=exif)
    image = Image.open(file)
    for _ in range(2):
        assert to_rgb(image).size == (32, 64)
        assert image.size == (64, 32)
        assert image.getexif()[0x0112] == 6
    plain = four_colours()
    to_rgb(plain).paste(BLUE, (0, 0, 64, 32))
    assert corners(plain) == [RED, GREEN, BLUE, WHITE]


def test_an_empty_image_and_a_large_one_are_refused() -> None:
    with pytest.raises(UnreadableImageError, match="has 0 x 5 pixels; expected at least 1 x 1"):
        to_rgb(Image.new("RGB", (0, 5)))
    with pytest.raises(UnreadableImageError, match="has 50 x 40 pixels; the limit is 1,999 in all"):
        to_rgb(Image.new("RGB", (50, 40)), max_pixels=1999)


def test_a_large_image_may_come_out_smaller() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 17, 3), np.uint8)).resize((1700, 1203), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=100, subsampling=0)
    direct = np.asarray(smooth.resize((100, 70), Image.Resampling.BICUBIC)).astype(int)
    for small, size in (
        (to_rgb(smooth, min_side=200), (283, 200)),
        (open_image(file.getvalue(), min_side=200), (425, 301)),  # JPEGs are halved
    ):
        assert small.size == size
        assert np.abs(np.asarray(small.resize((100, 70), Image.Resampling.BICUBIC)) - direct).mean() < 0.3  # of 255
    assert to_rgb(smooth, min_side=700).tobytes() == smooth.tobytes()


def test_the_same_image_from_many_threads() -> None:
    file = io.BytesIO()
    half("RGBA", (0, 0, 0, 0), (*RED, 255)).save(file, "PNG")
    expected, found = open_image(file.getvalue()).tobytes(), []
    threads = [threading.Thread(target=lambda: found.append(open_image(file.getvalue()).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8
