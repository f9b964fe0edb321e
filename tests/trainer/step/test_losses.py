"""Losses of a mixture's parts, against those of the whole and those of each part alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models import Batch, MMInterleaved, MMInterleavedConfig
from models.batch import IGNORED
from rows import pack_rows
from trainer.step.accumulate import Chunks
from trainer.step.losses import StepLosses, datasets_of_losses

NAMES = ("captions", "stories", "never")
DOCUMENTS = [  # rows of documents, each with the number of its dataset
    [(0, [9, "draw", 11]), (1, ["image", 9, 10, "draw", 11, "draw"])],
    [(1, [9, 10])],
    [(0, ["image", 12, "draw", "draw", 13, "draw"]), (0, [9])],
    [(1, [10, 11, 12])],
]
TEXT_ALONE = [[(0, [9, 10])], [(1, [9, 10, 11])]]
LOSSES = StepLosses(Chunks(images=2, tokens=5), torch.float32, NAMES)


@pytest.fixture
def model() -> MMInterleaved:
    torch.manual_seed(0)
    model = MMInterleaved(MMInterleavedConfig.tiny()).train()
    model.image_decoder.eval()  # no dropped conditions
    return model


def batch_of(rows: list) -> Batch:
    """Of several datasets."""
    batch = pack_rows([[document for _, document in row] for row in rows])
    ids = torch.full_like(batch.document_ids, -1)
    for number, row in enumerate(rows):
        for place, (dataset, _) in enumerate(row):
            ids[number, batch.document_ids[number] == place] = dataset
    return replace(batch, dataset_ids=ids)


def step(model: MMInterleaved, losses: StepLosses, micro_batches: list[Batch]) -> dict[str, float | None]:
    """What the log gets of a step of these micro-batches."""
    counts = [sum(column) for column in zip(*map(losses.counts, micro_batches), strict=True)]
    values: dict[str, float | None] = {}
    for batch in micro_batches:
        for name, value in losses.accumulate(model, batch, counts).items():
            values[name] = None if value is None else float(value) + (values.get(name) or 0.0)
    return values


def test_the_parts_add_up_to_the_whole(model: MMInterleaved) -> None:
    batch = batch_of(DOCUMENTS)
    num_targets, num_drawn, *apart = LOSSES.counts(batch)
    by_text, by_image = dict(zip(NAMES, apart[:3], strict=True)), dict(zip(NAMES, apart[3:], strict=True))
    assert sum(by_text.values()) == num_targets == int((batch.targets >= 0).sum())
    assert by_image == {"captions": 4, "stories": 2, "never": 0}
    assert num_drawn == 6
    values = step(model, LOSSES, [batch])
    for kind, counts in (("loss_text", by_text), ("loss_image", by_image)):
        weighted = [values[f"{kind}/{name}"] * count for name, count in counts.items() if count]
        assert sum(weighted) / sum(counts.values()) == pytest.approx(values[kind], rel=1e-6)
        assert values[f"{kind}/never"] is None
    assert values["loss_text/captions"] != pytest.approx(values["loss_text/stories"], rel=1e-3)


def test_a_part_has_the_loss_of_a_batch_where_only_it_is_learned(model: MMInterleaved) -> None:
    batch = batch_of(DOCUMENTS)
    values = step(model, LOSSES, [batch])
    text_ids, image_ids = datasets_of_losses(batch)
    assert len(text_ids) == int((batch.targets >= 0).sum())
    for number, name in enumerate(NAMES[:2]):
        drawn = image_ids == number
        output = model(
            replace(
                batch,
                targets=batch.targets.where(batch.dataset_ids == number, IGNORED),
                drawn=batch.drawn[drawn],
                drawn_pixels=batch.drawn_pixels[drawn],
                drawn_keys=batch.drawn_keys[drawn],
            )
        )
        assert values[f"loss_text/{name}"] == pytest.approx(output.loss_text.item(), rel=1e-5)
        assert values[f"loss_image/{name}"] == pytest.approx(output.loss_image.item(), rel=1e-5)


def test_micro_batches_make_no_difference(model: MMInterleaved) -> None:
    """Some of them lack a dataset, or have nothing to draw; keys of noise are those of the whole batch."""
    whole = batch_of(DOCUMENTS)
    rows = [batch_of([row]) for row in DOCUMENTS]
    parts = []
    for number, batch in enumerate(rows):
        images = whole.image_positions[:, 0] == number
        drawn = images[whole.drawn]
        parts.append(
            replace(
                batch,
                pixel_values=whole.pixel_values[images],
                drawn_pixels=whole.drawn_pixels[drawn],
                drawn_keys=whole.drawn_keys[drawn],
            )
        )
    expected = step(model, LOSSES, [whole])
    assert step(model, LOSSES, parts) == {
        name: None if value is None else pytest.approx(value, rel=1e-5) for name, value in expected.items()
    }


def test_a_dataset_without_an_image_in_the_step_has_no_image_loss(model: MMInterleaved) -> None:
    values = step(model, LOSSES, [batch_of(TEXT_ALONE)])
    assert {name for name, value in values.items() if value is None} == {
        "loss_text/never",
        "loss_image",
        *(f"loss_image/{name}" for name in NAMES),
    }


def test_one_dataset_adds_nothing(model: MMInterleaved) -> None:
    losses = replace(LOSSES, datasets=("captions",))
    batch = replace(batch_of(DOCUMENTS), dataset_ids=None)
    assert len(losses.counts(batch)) == 2
    assert step(model, losses, [batch]).keys() == {"loss", "loss_text", "loss_image"}
    with pytest.raises(ValueError, match="has no dataset_ids; expected them"):
        datasets_of_losses(batch)
