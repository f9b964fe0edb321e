"""What a model in training makes of a few held-out documents, beside the truth, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from models import MMInterleaved
from trainer.config import TrainConfig
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.stream import picture_px
from trainer.evaluate import Settings, Written, answer, to_model
from trainer.exams import EXAMS, true_picture

SAMPLES = "samples"
"""The folder in a run directory, with a file for each sampled step."""

COLUMNS = ("given", "truth", "model")
CELL_PX, PICTURE_PX, MARGIN_PX, LINE_PX, FONT_PX = 300, 96, 10, 16, 12


class Sampler:
    """Lets a model answer one held-out document of each family that it is trained on, always the same ones.

    Args:
        model: with a processor.
        config: of the run; its data is the emoji world.
    """

    def __init__(self, model: MMInterleaved, config: TrainConfig) -> None:
        data = config.data
        families = [task for task, weight in data.tasks.items() if weight]
        options = TaskOptions(data.num_concepts, picture_px(model.config.vision.picture_shape[0]), data.num_sprites)
        self._documents = [documents(task, "val", 0, 1, options=options)[0] for task in families]
        self._settings = Settings(tasks=tuple(families), num_concepts=data.num_concepts, num_sprites=data.num_sprites)
        self._model = model
        self._is_half = config.precision == "bfloat16"
        self._folder = Path(config.out) / SAMPLES

    def __call__(self, step: int) -> None:
        """Write the samples after so many steps; the model is in evaluation mode."""
        side_px = self._model.config.vision.picture_shape[0]
        rows = []
        for document in self._documents:
            exam = EXAMS[document.task]
            truth = (
                document.truth["answer"] if exam.kind == "text" else PILImage.fromarray(true_picture(document).pixels)
            )
            with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._is_half):
                written = answer(self._model, document, exam, self._settings, seed=0)
            rows.append((to_model(exam.prompt(document), side_px), [truth], [written]))
        self._folder.mkdir(exist_ok=True)
        unfinished = self._folder / f".{step:07d}.png"
        sheet(rows).save(unfinished)
        unfinished.replace(self._folder / f"{step:07d}.png")


def sheet(rows: Sequence[Sequence[Sequence[Written]]]) -> PILImage.Image:
    """A table of what was given, the truth and the model's answer, a line for each document."""
    cells = [[_cell(written) for written in row] for row in rows]
    heights = [max(cell.height for cell in row) for row in cells]
    table = PILImage.new("RGB", (len(COLUMNS) * CELL_PX, MARGIN_PX + LINE_PX + sum(heights)), "white")
    pen = ImageDraw.Draw(table)
    for column, title in enumerate(COLUMNS):
        pen.text((column * CELL_PX + MARGIN_PX, MARGIN_PX), title, fill="gray", font=ImageFont.load_default(FONT_PX))
    y = MARGIN_PX + LINE_PX
    for row, height in zip(cells, heights, strict=True):
        pen.line((0, y, table.width, y), fill="lightgray")
        for column, cell in enumerate(row):
            table.paste(cell, (column * CELL_PX, y + 1))
        y += height
    return table


def _cell(segments: Sequence[Written]) -> PILImage.Image:
    """Pictures side by side, as many as fit a line, and the text below."""
    pictures = [one for one in segments if not isinstance(one, str)]
    lines = textwrap.wrap("".join(one if isinstance(one, str) else "" for one in segments).strip(), 42)
    step_px = PICTURE_PX + MARGIN_PX
    in_line = (CELL_PX - MARGIN_PX) // step_px
    text_y = MARGIN_PX + step_px * -(-len(pictures) // in_line)
    cell = PILImage.new("RGB", (CELL_PX, text_y + LINE_PX * len(lines) + MARGIN_PX), "white")
    for number, picture in enumerate(pictures):
        place = (MARGIN_PX + number % in_line * step_px, MARGIN_PX + number // in_line * step_px)
        cell.paste(picture.resize((PICTURE_PX, PICTURE_PX), PILImage.Resampling.NEAREST), place)
    pen = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        pen.text((MARGIN_PX, text_y + LINE_PX * number), line, fill="black", font=ImageFont.load_default(FONT_PX))
    return cell
