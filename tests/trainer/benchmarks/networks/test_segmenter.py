import numpy as np
import pytest
import torch
from PIL import Image

from tiny_judges import write_segmenter
from trainer.benchmarks.networks.segmenter import Segmenter
from trainer.errors import UsageError


def test_every_pixel_gets_a_class(tmp_path) -> None:
    segmenter = Segmenter(write_segmenter(tmp_path / "segmenter"), torch.device("cpu"))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    classes = segmenter.classes(Image.fromarray(noise), 30, 50)
    assert classes.shape == (30, 50)
    assert classes.min() >= 0
    assert classes.max() < 150
    assert segmenter.name == "SegformerForSemanticSegmentation in segmenter"


def test_other_models_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="knows 21 classes; ADE20K has 150"):
        Segmenter(write_segmenter(tmp_path / "voc", 21), torch.device("cpu"))
    with pytest.raises(UsageError, match="--segmenter "):
        Segmenter(tmp_path / "none", torch.device("cpu"))
