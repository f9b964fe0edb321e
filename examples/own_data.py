"""From a folder of images and captions to a model that captions and draws them.

    python -m examples.own_data                    # makes such a folder first: coloured shapes
    python -m examples.own_data --folder MINE      # with MINE/captions.jsonl: {"image": "a.png", "caption": "a ..."}

Three commands do the work, and this program only calls them: `trainer.data.index` finds every sample once,
`trainer.pretrain` goes on from the toy model that comes with the repository, and `MMInterleaved.generate` captions and
draws. The toy model reads 64 pixels a side and draws 32, so this shows how it is done, not how well it can be done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from models import MMInterleaved
from trainer.data import index
from trainer.pretrain import main as pretrain

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 90, 220),
    "yellow": (240, 200, 40),
    "purple": (150, 60, 190),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle")
SIDE_PX = 64


@dataclass(frozen=True)
class Answers:
    """What the trained model made of a few of the images and captions that it has seen, truths first."""

    captions: list[tuple[str, str]]
    drawings: Path
    """One image for each of the captions, in their order, in one file."""


def write_folder(folder: Path) -> None:
    """36 images of a shape each, in two sizes, and captions.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, colour in COLOURS.items():
        for shape in SHAPES:
            for radius in (15, 19):
                file = f"{name}-{shape}-{radius}.png"
                draw_shape(shape, colour, radius).save(folder / file)
                rows.append({"image": file, "caption": f"a {name} {shape}"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw_shape(shape: str, colour: tuple[int, int, int], radius: int) -> Image.Image:
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    pen, middle = ImageDraw.Draw(image), SIDE_PX // 2
    low, high = middle - radius, middle + radius
    if shape == "circle":
        pen.ellipse([low, low, high, high], fill=colour)
    elif shape == "square":
        pen.rectangle([low, low, high, high], fill=colour)
    else:
        pen.polygon([(middle, low), (low, high), (high, high)], fill=colour)
    return image


def train(folder: Path, out: Path, num_steps: int) -> Path:
    """The directory of a model that was trained on a folder.

    Args:
        folder: images and captions.jsonl.
        out: gets index/ and run/.
        num_steps: of the training; none of it is done again if this is called again.
    """
    status = index.main([str(folder / "captions.jsonl"), "--images", str(folder), "--out", str(out / "index")])
    if status:
        raise SystemExit(status)
    settings = out / "run.yaml"
    manifest = json.dumps(str(out / "index"))
    settings.write_text(f"corpus:\n  sources: {{mine: {{manifest: {manifest}}}}}\n  num_rows: 4\n  row_tokens: 64\n")
    options = ["--num_steps", str(num_steps), "--optim.lr", "1e-3", "--ema_decay", "0", "--device", "cpu"]
    status = pretrain(["toy", "--config", str(settings), "--out", str(out / "run"), *options])
    if status:
        raise SystemExit(status)
    return out / "run" / "model"


def ask(model: MMInterleaved, folder: Path, out: Path, count: int) -> Answers:
    """Caption `count` images of the folder, and draw their captions."""
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    rows = rows[:: max(1, (len(rows) - 1) // (count - 1))][:count]
    captions, sheet = [], None
    for number, row in enumerate(rows):
        image = Image.open(folder / row["image"])
        written = model.generate([image], mode="text", max_new_tokens=12).text
        [drawn] = model.generate([row["caption"]], mode="image", seed=0).images
        captions.append((row["caption"], written.strip()))
        if sheet is None:
            sheet = Image.new("RGB", (drawn.width * count, drawn.height))
        sheet.paste(drawn, (number * drawn.width, 0))
    assert sheet is not None, "a folder that was indexed has samples"
    sheet.save(out / "drawings.png")
    return Answers(captions, out / "drawings.png")


def main(arguments: Sequence[str] | None = None) -> Answers:
    """Train and show; returns what was shown."""
    parser = argparse.ArgumentParser(prog="python -m examples.own_data", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="images and captions.jsonl; default: coloured shapes, made here")
    parser.add_argument("--out", type=Path, default=Path("runs/own_data"), help="gets index/, run/ and drawings.png")
    parser.add_argument("--steps", type=int, default=150, help="of the training; default 150, about a minute")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    folder = given.folder
    if folder is None:
        folder = given.out / "shapes"
        write_folder(folder)
    if not (folder / "captions.jsonl").is_file():
        parser.error(f'{folder} has no captions.jsonl; expected a line {{"image": ..., "caption": ...}} for each image')
    model = MMInterleaved.from_pretrained(train(folder, given.out, given.steps))
    answers = ask(model, folder, given.out, 6)
    for truth, written in answers.captions:
        print(f"an image of {truth!r}: the model writes {written!r}")
    print(f"drawn from these captions, in this order: {answers.drawings}")
    return answers


if __name__ == "__main__":
    main(sys.argv[1:])
