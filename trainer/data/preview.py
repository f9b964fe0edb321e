"""Pictures of the emoji world: `python -m trainer.data.preview --task story --out FILE.png`.

A contact sheet with one document a line: its pictures at the size that the model reads (and, with --drawn-px, at the
size that it draws), enlarged, and its text below.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from trainer.data.collate import box_resize
from trainer.data.document import Document, Image
from trainer.data.emoji.tasks import SPLITS, TASKS, TaskOptions, documents

MARGIN_PX = 8
LINE_PX = 14
FONT_PX = 11


def contact_sheet(items: Sequence[Document], *, zoom: int, drawn_px: int | None, columns: int) -> PILImage.Image:
    """The documents in so many columns; `drawn_px` shows the pictures averaged down to that size."""
    cells = [_cell(document, zoom, drawn_px) for document in items]
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    sheet = PILImage.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % columns * width, index // columns * height))
    return sheet


def _cell(document: Document, zoom: int, drawn_px: int | None) -> PILImage.Image:
    pictures = [_enlarged(item.pixels, zoom, drawn_px) for item in document.segments if isinstance(item, Image)]
    words = "".join("[image]" if isinstance(item, Image) else item.text for item in document.segments)
    width = sum(picture.width + MARGIN_PX for picture in pictures) + MARGIN_PX
    lines = textwrap.wrap(words, max(12, width // 7))
    height = pictures[0].height + 3 * MARGIN_PX + LINE_PX * len(lines)
    cell = PILImage.new("RGB", (width, height), "white")
    x = MARGIN_PX
    for picture in pictures:
        cell.paste(picture, (x, MARGIN_PX))
        x += picture.width + MARGIN_PX
    text = ImageDraw.Draw(cell)
    font = ImageFont.load_default(FONT_PX)
    for number, line in enumerate(lines):
        text.text((MARGIN_PX, pictures[0].height + 2 * MARGIN_PX + LINE_PX * number), line, fill="black", font=font)
    return cell


def _enlarged(pixels: np.ndarray, zoom: int, drawn_px: int | None) -> PILImage.Image:
    side = zoom * pixels.shape[0]
    if drawn_px is not None:
        planes = box_resize(pixels[None], drawn_px)[0]
        pixels = np.rint(planes.transpose(1, 2, 0) * 255).astype(np.uint8)
    return PILImage.fromarray(pixels).resize((side, side), PILImage.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--start", type=int, default=0, help="index of the first document")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--num-concepts", type=int, default=TaskOptions.num_concepts)
    parser.add_argument("--image-px", type=int, default=TaskOptions.image_px)
    parser.add_argument("--drawn-px", type=int, help="show the pictures at the size that the model draws")
    args = parser.parse_args()
    options = TaskOptions(num_concepts=args.num_concepts, image_px=args.image_px)
    items = documents(args.task, args.split, args.start, args.count, options=options)
    contact_sheet(items, zoom=args.zoom, drawn_px=args.drawn_px, columns=args.columns).save(args.out)


if __name__ == "__main__":
    main()
