"""What a model in training makes of a few held-out documents, beside the truth, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from models import MMInterleaved
from models.atomic_files import write_atomically
from models.write_errors import writing
from trainer.config import TrainConfig
from trainer.data.config import CorpusConfig, DataConfig
from trainer.data.corpus_stream import CorpusStream
from trainer.data.document import Document, Image, Segment
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.stream import rendered_side
from trainer.errors import UsageError
from trainer.evaluation.answers import Written, go_on, to_model
from trainer.evaluation.settings import Settings
from trainer.evaluation.tasks import EVALUATION_TASKS, true_image
from trainer.run_files import SAMPLES
from trainer.run_storage import local_folder

NUM_SHOWN = 4
"""Documents of each source of a corpus on a sheet."""

MAX_NEW_TOKENS = 64
"""How long the text may get that goes on a document of a corpus."""

SPARE_TOKENS = 2 * MAX_NEW_TOKENS
"""What of the language model's length is left for what it makes."""

COLUMNS = ("given", "truth", "model")
CELL_PX, IMAGE_PX, MARGIN_PX, LINE_PX, FONT_PX = 300, 96, 10, 16, 12


@dataclass(frozen=True, eq=False)
class Asked:
    """The beginning of a document, and how it goes on."""

    given: Sequence[Segment]
    truth: Written
    max_new_tokens: int
    """0: an image is to be drawn."""


class Sampler:
    """Lets a model go on with held-out documents, always the same ones.

    Args:
        model: with a processor.
        config: of the run.

    Raises:
        UsageError: nothing that is held out of the corpus can be shown.
    """

    def __init__(self, model: MMInterleaved, config: TrainConfig) -> None:
        self._asked = of_world(config.data, model) if config.corpus is None else of_corpus(config.corpus, model)
        self._settings = Settings()
        self._model = model
        self._is_half = config.precision == "bfloat16"
        self._folder = local_folder(config.out) / SAMPLES

    def __call__(self, step: int, is_left: Callable[[], bool] = lambda: False) -> None:
        """Write the samples after so many steps; the model is in evaluation mode. Nothing is written if `is_left` says
        in between that they are not to be finished."""
        image_side = self._model.config.image_size[0]
        rows = []
        for asked in self._asked:
            if is_left():
                return
            with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._is_half):
                written = go_on(self._model, asked.given, self._settings, max_new_tokens=asked.max_new_tokens, seed=0)
            rows.append((to_model(asked.given, image_side), [asked.truth], [written]))
        encoded = BytesIO()
        sheet(rows).save(encoded, format="png")
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
        write_atomically(self._folder / f"{step:07d}.png", encoded.getvalue())


def of_world(data: DataConfig, model: MMInterleaved) -> list[Asked]:
    """One document of each family of the emoji world that is trained on."""
    options = TaskOptions(data.num_concepts, rendered_side(model.config.image_size[0]), data.num_sprites)
    asked = []
    for task in (task for task, weight in data.tasks.items() if weight):
        definition, [document] = EVALUATION_TASKS[task], documents(task, "val", 0, 1, options=options)
        truth = (
            document.truth["answer"] if definition.kind == "text" else PILImage.fromarray(true_image(document).pixels)
        )
        asked.append(Asked(definition.prompt(document), truth, definition.max_new_tokens))
    return asked


def of_corpus(corpus: CorpusConfig, model: MMInterleaved) -> list[Asked]:
    """The first documents that each source holds out. Broken ones are passed over."""
    tokenizer = model.processor.tokenizer if model.processor is not None else None
    stream = CorpusStream(corpus, model.config, seed=0, tokenizer=tokenizer)
    limit = model.config.language_model.max_tokens
    max_tokens = corpus.row_tokens if limit is None else min(corpus.row_tokens, limit - SPARE_TOKENS)
    asked: list[Asked] = []
    for name in corpus.sources:
        fitting = (last_left_out(document) for document in stream.held_out(name, max_tokens))
        asked += islice((one for one in fitting if one is not None), NUM_SHOWN)
    if not asked:
        held_out = {name: source.held_out for name, source in corpus.sources.items()}
        raise UsageError(
            f"logging.sample_every asks for samples, and nothing that is held out of the corpus ({held_out}) can be "
            "shown: all of it is broken, dropped by the rules, or too long for a row. Hold out more, or leave "
            "logging.sample_every 0."
        )
    return asked


def last_left_out(document: Document) -> Asked | None:
    """A document up to the last segment that a model learns to make, which is the truth; None if it learns none."""
    learned = [
        place
        for place, segment in enumerate(document.segments)
        if place > 0 and (segment.draw if isinstance(segment, Image) else segment.loss)
    ]
    if not learned:
        return None
    last = document.segments[learned[-1]]
    given = document.segments[: learned[-1]]
    if isinstance(last, Image):
        return Asked(given, PILImage.fromarray(last.pixels if last.target is None else last.target), 0)
    return Asked(given, last.text.strip(), MAX_NEW_TOKENS)


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
    """Images side by side, as many as fit a line, and the text below."""
    images = [one for one in segments if not isinstance(one, str)]
    lines = textwrap.wrap("".join(one if isinstance(one, str) else "" for one in segments).strip(), 42)
    step_px = IMAGE_PX + MARGIN_PX
    in_line = (CELL_PX - MARGIN_PX) // step_px
    text_y = MARGIN_PX + step_px * -(-len(images) // in_line)
    cell = PILImage.new("RGB", (CELL_PX, text_y + LINE_PX * len(lines) + MARGIN_PX), "white")
    for number, image in enumerate(images):
        place = (MARGIN_PX + number % in_line * step_px, MARGIN_PX + number // in_line * step_px)
        how = PILImage.Resampling.NEAREST if image.width < IMAGE_PX else PILImage.Resampling.BOX
        cell.paste(image.resize((IMAGE_PX, IMAGE_PX), how), place)
    pen = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        pen.text((MARGIN_PX, text_y + LINE_PX * number), line, fill="black", font=ImageFont.load_default(FONT_PX))
    return cell
