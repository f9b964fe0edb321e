from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.runtime import Session
from export.store.samples import load_samples
from export.validate.end_to_end import check_generation, compare, psnrs
from export.validate.parity import ParityError
from models import MMInterleaved


def grey(level: int) -> Image.Image:
    return Image.fromarray(np.full((4, 6, 3), level, np.uint8))


@pytest.mark.parametrize("part", ["language_model.host.lm_head.weight", "image_decoder.unet.host.conv_out.weight"])
def test_a_model_that_writes_or_draws_otherwise_is_not_equal(
    exported: Path, model: MMInterleaved, model_dir: Path, part: str
) -> None:
    with torch.no_grad():
        model.get_parameter(part).neg_()
    with pytest.raises(ParityError, match=r"in document 0 (PyTorch writes|image 0 has a PSNR of)"):
        check_generation(model, Session.open(exported, "ort"), load_samples(model_dir).documents)


def test_documents_are_compared_in_words_and_decibels() -> None:
    assert compare(["a", grey(100)], ["a", grey(101)]) is None
    assert psnrs([grey(100), "a"], [grey(101), "a"]) == pytest.approx([20 * np.log10(255)])
    assert psnrs([grey(9)], [grey(9)]) == [100.0]
    assert "PSNR of 28.1 dB" in (compare([grey(100)], [grey(110)]) or "")
    assert compare(["a"], ["b"]) == "PyTorch writes ['a'], and the exported model ['b']."
    assert "['<image of 6 x 4>'], and the exported model []" in (compare([grey(1)], []) or "")
