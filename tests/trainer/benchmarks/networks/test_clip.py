import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from tiny_judges import write_clip
from trainer.benchmarks.networks import clip as module
from trainer.benchmarks.networks.clip import Clip
from trainer.errors import UsageError

IMAGES = [Image.new("RGB", (40, 30), (number * 20, 100, 50)) for number in range(5)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("judges") / "clip")


def test_features_are_those_of_transformers(directory, monkeypatch) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    clip = Clip(directory, torch.device("cpu"))
    model, processor = CLIPModel.from_pretrained(directory).eval(), CLIPProcessor.from_pretrained(directory)
    texts = ["a dog", "b", "c d e"]
    with torch.no_grad():
        inputs = processor(text=texts, images=IMAGES, return_tensors="pt", padding=True)
        output = model(**inputs)
    for ours, theirs in ((clip.of_images(IMAGES), output.image_embeds), (clip.of_texts(texts), output.text_embeds)):
        unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, theirs.numpy(), atol=1e-5)


def test_long_texts_are_cut(directory) -> None:
    clip = Clip(directory, torch.device("cpu"))
    assert clip.of_texts(["x " * 200]).shape == (1, 8)


def test_what_is_no_clip(tmp_path) -> None:
    with pytest.raises(UsageError, match="--clip "):
        Clip(tmp_path, torch.device("cpu"))
