"""The stream of training batches."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle

import pytest
import torch

from models.batch import Batch
from models.config import MMInterleavedConfig
from trainer.data.config import DataConfig
from trainer.data.emoji.tasks import TASKS
from trainer.data.stream import Stream, rendered_side

MODEL = MMInterleavedConfig.toy()
PAD, BOS, EOS, BOI, IMAGE = range(5)
SCRATCH_TASKS = {
    "caption": 1.5,
    "draw": 4.5,
    "read": 2.0,
    "label_map": 2.5,
    "ground": 0.8,
    "compare": 0.8,
    "story": 1.5,
}


def digest(batch: Batch) -> str:
    tensors = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def test_a_batch_depends_on_seed_and_step_only():
    config = DataConfig(num_rows=2)
    stream = Stream(config, MODEL, seed=3)
    in_order = [digest(stream(step)) for step in range(4)]
    assert len(set(in_order)) == 4
    assert [digest(Stream(config, MODEL, seed=3)(step)) for step in (3, 1)] == [in_order[3], in_order[1]]
    assert digest(Stream(config, MODEL, seed=4)(1)) != in_order[1]
    assert digest(pickle.loads(pickle.dumps(stream))(2)) == in_order[2]


def test_a_row_does_not_depend_on_how_many_there_are():
    few, many = (Stream(DataConfig(num_rows=rows), MODEL, seed=0)(5) for rows in (2, 4))
    assert torch.equal(few.input_ids, many.input_ids[:2])
    assert torch.equal(few.pixel_values, many.pixel_values[: len(few.pixel_values)])
    assert torch.equal(few.drawn_keys, many.drawn_keys[: len(few.drawn_keys)])


def test_processes_with_a_share_of_the_rows_make_the_same_batch():
    stream = Stream(DataConfig(num_rows=4), MODEL, seed=3)
    whole = stream(7)
    parts = [stream.part(7, range(0, 1)), stream.part(7, range(1, 4))]
    for name in ("input_ids", "targets", "pixel_values", "drawn_pixels", "drawn_keys"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        pytest.param(
            MODEL,
            {"num_rows": 8, "num_concepts": 20, "num_sprites": 6, "ramp_steps": 200, "tasks": SCRATCH_TASKS},
            "a0e86f66bcbf409c",
            id="toy_scratch",
        ),
        pytest.param(
            MMInterleavedConfig.tiny(),
            {"num_rows": 2, "row_tokens": 96, "num_concepts": 12, "num_sprites": 3},
            "3d5d611c5c90bdf0",
            id="tiny",
        ),
    ],
)
def test_batches_stay_what_they_were(model, settings, expected):
    # A run that goes on from an older checkpoint depends on it. Pixels come from Pillow, whose versions may differ.
    integers = ("input_ids", "targets", "document_ids", "position_ids", "image_positions", "drawn", "drawn_keys")
    batch = Stream(DataConfig(**settings), model, seed=0)(150)
    found = hashlib.sha256(b"".join(getattr(batch, name).numpy().tobytes() for name in integers)).hexdigest()
    assert found[:16] == expected


def test_batches_are_well_formed():
    for step in range(5):
        batch = Stream(DataConfig(), MODEL, seed=0)(step)
        assert batch.input_ids.shape == batch.targets.shape == (16, 128)
        real = batch.document_ids >= 0
        assert torch.equal(real, batch.input_ids != PAD)
        assert (batch.targets[~real] == -100).all()
        supervised = batch.targets != -100
        assert not supervised[:, -1].any()
        assert torch.equal(batch.targets[:, :-1][supervised[:, :-1]], batch.input_ids[:, 1:][supervised[:, :-1]])
        # Documents: contiguous, numbered in order, positions count from 0, `<s>` first and `</s>` last.
        starts = batch.position_ids == 0
        assert torch.equal((batch.input_ids == BOS), starts & real)
        assert torch.equal(torch.cumsum((batch.input_ids == BOS).long(), 1)[real] - 1, batch.document_ids[real])
        same = (batch.document_ids[:, 1:] == batch.document_ids[:, :-1]) & real[:, 1:]
        assert torch.equal(batch.position_ids[:, 1:][same], batch.position_ids[:, :-1][same] + 1)
        assert (batch.input_ids[:, :-1][~same & real[:, :-1]] == EOS).all()
        # Images: one BoI and all placeholders each, in reading order.
        rows, columns = batch.image_positions.T
        assert torch.equal(torch.nonzero(batch.input_ids == BOI), torch.stack([rows, columns - 1], 1))
        num = MODEL.visual_tokenizer.num_visual_tokens
        assert (batch.input_ids[rows[:, None], columns[:, None] + torch.arange(num)] == IMAGE).all()
        assert (batch.input_ids == IMAGE).sum() == num * len(rows)
        assert batch.pixel_values.shape == (len(rows), 3, 64, 64)
        assert 0 <= batch.pixel_values.min() <= batch.pixel_values.max() <= 1
        # Drawn: not what opens a document; the targets are the bank's images averaged down.
        assert (batch.position_ids[rows, columns][batch.drawn] > 2).all()
        assert len(batch.drawn_keys.unique()) == len(batch.drawn) > 0
        shown = torch.nn.functional.avg_pool2d(batch.pixel_values[batch.drawn], 2)
        torch.testing.assert_close(batch.drawn_pixels, shown, rtol=0, atol=1e-6)


def test_task_weights_are_shares():
    stream = Stream(DataConfig(tasks={"draw": 3.0, "read": 1.0, "story": 0.0}), MODEL, seed=0)
    documents = stream.documents(0, 0)
    keys = [next(documents).key.split("/") for _ in range(300)]
    assert {key[2] for key in keys} == {"train"}
    drawn = [key[1] for key in keys].count("draw")
    assert 0.65 < drawn / 300 < 0.85
    assert drawn + [key[1] for key in keys].count("read") == 300


def test_the_number_of_sprites_to_read_grows():
    config = DataConfig(ramp_steps=100)
    counts = [config.num_sprites_at(step) for step in range(150)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[100] == counts[149] == 9
    assert set(counts) == set(range(1, 10))
    assert DataConfig().num_sprites_at(0) == 9
    easy = Stream(DataConfig(num_rows=4, ramp_steps=100, tasks={"read": 1.0}), MODEL, seed=0)
    assert (easy(0).document_ids >= 0).sum() / len(easy(0).pixel_values) < 25  # one question an image
    assert (easy(100).document_ids >= 0).sum() / len(easy(100).pixel_values) > 35


def test_images_smaller_than_the_canvas_are_averaged_down():
    assert [rendered_side(size) for size in (16, 32, 64, 128, 224)] == [64, 64, 64, 128, 448]
    tiny = MMInterleavedConfig.tiny()
    batch = Stream(DataConfig(num_rows=1, tasks={"draw": 1.0}), tiny, seed=0)(0)
    assert batch.pixel_values.shape[1:] == (3, 32, 32)
    assert batch.drawn_pixels.shape[1:] == (3, tiny.image_decoder.image_size, tiny.image_decoder.image_size)


def test_a_drawn_size_that_is_no_exact_mean_is_refused():
    odd = dataclasses.replace(MODEL, image_decoder=dataclasses.replace(MODEL.image_decoder, image_size=48))
    with pytest.raises(ValueError, match="draws 48 px, images have 64 px"):
        Stream(DataConfig(), odd, seed=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tasks": {"poem": 1.0}}, r"\['poem'\]; expected some of"),
        ({"tasks": {"read": 0.0}}, "one of them above 0"),
        ({"tasks": {"read": 1.0, "draw": -1.0}}, "at least 0"),
        ({"tasks": {}}, "one of them above 0"),
        ({"num_rows": 0}, "0 rows of 128 tokens"),
        ({"ramp_steps": -1}, "ramp_steps is -1"),
        ({"num_sprites": 10}, "num_sprites is 10; expected 1 to 9"),
        ({"num_concepts": 16}, "expected 27 to 256"),
        ({"num_concepts": 300}, "expected 27 to 256"),
    ],
)
def test_wrong_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        DataConfig(**settings)


def test_the_families_of_pre_training_are_on_by_default():
    others = {"chat", "arrange"}
    assert set(DataConfig().tasks) == {name for name in TASKS if name not in others and not name.endswith("_steps")}
