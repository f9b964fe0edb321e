from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from models import MMInterleaved, MMInterleavedProcessor
from trainer.config import UsageError
from trainer.data.corpus import CorpusConfig, SourceConfig
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.recipes import tiny
from trainer.samples import CELL_PX, COLUMNS, MARGIN_PX, PICTURE_PX, Sampler, sheet


def config(out, **tasks):
    return replace(tiny(), out=str(out), data=replace(tiny().data, tasks=tasks), sample_every=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MMInterleaved(tiny().model, MMInterleavedProcessor(load_tokenizer(), image_size=32)).eval()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sheet_for_a_step_which_is_the_same_again(model, tmp_path, precision):
    sample = Sampler(model, replace(config(tmp_path, read=1.0, draw=2.0, caption=0.0), precision=precision))
    sample(2)
    torch.rand(1)
    sample(40)
    assert sorted(file.name for file in (tmp_path / "samples").iterdir()) == ["0000002.png", "0000040.png"]
    first, again = (np.asarray(PILImage.open(tmp_path / "samples" / f"{name}.png")) for name in ("0000002", "0000040"))
    assert first.shape[1] == len(COLUMNS) * CELL_PX
    assert (first == again).all()
    borders = np.flatnonzero((first[:, :, 0] == 211).all(axis=1))
    assert len(borders) == 2  # a line for each family that has a weight


def test_pictures_and_text_stand_in_their_columns():
    red, blue = (PILImage.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    pixels = np.asarray(sheet([([red, red, red, " words"], ["truth"], [blue])]))
    is_red, is_blue = ((pixels == colour).all(axis=2) for colour in ((255, 0, 0), (0, 0, 255)))
    assert is_red.sum() == 3 * PICTURE_PX**2
    assert np.flatnonzero(is_red.any(axis=0)).max() < CELL_PX - MARGIN_PX
    assert is_blue.sum() == PICTURE_PX**2
    assert np.flatnonzero(is_blue.any(axis=0)).min() == 2 * CELL_PX + MARGIN_PX
    truth = pixels[40:, CELL_PX + 1 : 2 * CELL_PX]
    assert (truth == 0).any()
    below = pixels[np.flatnonzero(is_red.any(axis=1)).max() + 1 :, :CELL_PX]
    assert (below == 0).any()


def test_a_corpus_has_nothing_held_out():
    corpus = CorpusConfig(sources={"pairs": SourceConfig(manifest="somewhere")})
    encoder = replace(tiny().encoder_pretraining, num_steps=0)
    with pytest.raises(UsageError, match="sample_every is 5; expected 0 with a corpus, which has no held-out"):
        replace(tiny(), corpus=corpus, encoder_pretraining=encoder, sample_every=5)
