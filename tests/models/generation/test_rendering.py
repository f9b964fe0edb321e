import base64
import io
import re
from itertools import pairwise

import numpy as np
import torch
from PIL import Image

from models.generation.rendering import GIVEN, WRITTEN, as_image, to_html, to_image

RED = Image.new("RGB", (40, 20), "red")
BLUE = Image.new("RGB", (30, 50), "blue")


def test_the_page_holds_every_segment() -> None:
    page = to_html(["is 1 < 2 & 3?", RED], [" yes", BLUE])
    assert "is 1 &lt; 2 &amp; 3?" in page
    images = [Image.open(io.BytesIO(base64.b64decode(found))) for found in re.findall(r"base64,([^\"]+)", page)]
    assert [(image.size, image.getpixel((0, 0))) for image in images] == [
        ((40, 20), (255, 0, 0)),
        ((30, 50), (0, 0, 255)),
    ]
    assert page.index("&amp;") < page.index('class="written"') < page.index(" yes")


def test_the_image_holds_every_segment() -> None:
    pixels = np.asarray(to_image(["given words", RED], ["written words " * 20, BLUE]))

    def rows_of(colour: tuple[int, int, int]) -> np.ndarray:
        return np.flatnonzero((pixels == colour).all(-1).any(1))

    def rgb(code: str) -> tuple[int, ...]:
        return tuple(bytes.fromhex(code[1:]))

    in_order = [rows_of(rgb(GIVEN)), rows_of((255, 0, 0)), rows_of(rgb(WRITTEN)), rows_of((0, 0, 255))]
    assert [len(rows) for rows in in_order[1::2]] == [6 * 20, 4 * 50]  # small images are enlarged
    for upper, lower in pairwise(in_order):
        assert upper.max() < lower.min()


def test_an_empty_document_is_an_empty_image() -> None:
    assert to_image([], []).size == (32, 32)


def test_images_in_every_form_look_alike() -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    for form in (array, tensor, Image.fromarray(array)):
        assert np.array_equal(np.asarray(as_image(form)), array)
