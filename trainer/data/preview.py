"""Images of the emoji world: `python -m trainer.data.preview --task story --out FILE.png`.

A contact sheet with one document a line: its images at the size that the model reads (or with --drawn-image-side, at
the size that it draws), enlarged, and its text below.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from models.program import explained, run_program
from models.urls import local_path
from trainer.data.box_resize import box_resize
from trainer.data.document import Document, Image
from trainer.data.emoji.tasks import SPLITS, TASKS, TaskOptions, documents
from trainer.errors import UsageError
from trainer.process.out_directory import make_room_for

PROGRAM = "python -m trainer.data.preview"
MARGIN_PX = 8
LINE_PX = 14
FONT_PX = 11


def contact_sheet(
    items: Sequence[Document], *, zoom: int, drawn_image_side: int | None, columns: int
) -> PILImage.Image:
    """The documents in so many columns; `drawn_image_side` shows the images averaged down to that size."""
    cells = [_cell(document, zoom, drawn_image_side) for document in items]
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    sheet = PILImage.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % columns * width, index // columns * height))
    return sheet


def _cell(document: Document, zoom: int, drawn_image_side: int | None) -> PILImage.Image:
    images = [_enlarged(item.pixels, zoom, drawn_image_side) for item in document.segments if isinstance(item, Image)]
    words = "".join("[image]" if isinstance(item, Image) else item.text for item in document.segments)
    width = sum(image.width + MARGIN_PX for image in images) + MARGIN_PX
    lines = textwrap.wrap(words, max(12, width // 7))
    height = images[0].height + 3 * MARGIN_PX + LINE_PX * len(lines)
    cell = PILImage.new("RGB", (width, height), "white")
    x = MARGIN_PX
    for image in images:
        cell.paste(image, (x, MARGIN_PX))
        x += image.width + MARGIN_PX
    text = ImageDraw.Draw(cell)
    font = ImageFont.load_default(FONT_PX)
    for number, line in enumerate(lines):
        text.text((MARGIN_PX, images[0].height + 2 * MARGIN_PX + LINE_PX * number), line, fill="black", font=font)
    return cell


def _enlarged(pixels: np.ndarray, zoom: int, drawn_image_side: int | None) -> PILImage.Image:
    side = zoom * pixels.shape[0]
    if drawn_image_side is not None:
        planes = box_resize(pixels[None], drawn_image_side)[0]
        pixels = np.rint(planes.transpose(1, 2, 0) * 255).astype(np.uint8)
    return PILImage.fromarray(pixels).resize((side, side), PILImage.Resampling.NEAREST)


def make_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition("\n\n")[2])
    number = partial(parser.add_argument, type=int)
    parser.add_argument("--task", choices=list(TASKS), required=True, help="the family of documents")
    parser.add_argument("--out", type=local_path, required=True, metavar="FILE.png", help="the image to write")
    parser.add_argument("--split", choices=SPLITS, default="val", help="which documents; default: %(default)s")
    number("--start", default=0, help="index of the first document; default: %(default)s")
    number("--count", default=12, help="how many documents; default: %(default)s")
    number("--columns", default=3, help="how many beside each other; default: %(default)s")
    number("--zoom", default=2, help="how many times enlarged; default: %(default)s")
    number("--num-concepts", default=TaskOptions.num_concepts, help="kinds of things; default: %(default)s")
    number("--image-side", default=TaskOptions.image_side, help="side of the images read; default: %(default)s")
    number("--drawn-image-side", help="show the images at the size that the model draws; default: as they are read")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for wrong use."""
    args = make_parser().parse_args(arguments)
    try:
        if args.out.suffix.lower() != ".png":
            raise UsageError(f"--out is {args.out}; expected a file named *.png.")
        for name in ("count", "columns", "zoom"):
            if getattr(args, name) < 1:
                raise UsageError(f"--{name} is {getattr(args, name)}; expected 1 or more.")
        make_room_for(args.out)
        options = TaskOptions(num_concepts=args.num_concepts, image_side=args.image_side)
        items = documents(args.task, args.split, args.start, args.count, options=options)
        contact_sheet(items, zoom=args.zoom, drawn_image_side=args.drawn_image_side, columns=args.columns).save(
            args.out
        )
    except (OSError, ValueError) as error:
        print(f"{PROGRAM}: {explained(error)}", file=sys.stderr)
        return 2
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
