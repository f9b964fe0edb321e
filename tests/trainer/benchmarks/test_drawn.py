import numpy as np
import pytest
import torch
from PIL import Image

from tiny_judges import write_clip
from trainer.benchmarks.all import BENCHMARKS
from trainer.benchmarks.drawn import Judges, label_map, score_drawn, score_label_maps
from trainer.benchmarks.image_files import open_image
from trainer.benchmarks.networks.clip import Clip
from trainer.errors import UsageError

CPU = torch.device("cpu")


class MeanColours(torch.nn.Module):
    """In the place of Inception: the colours of an 8 x 8 mosaic, many times over, so that there are 2,048."""

    def forward(self, images):
        small = torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)
        return torch.cat([small, torch.zeros(len(images), 2048 - small.shape[1])], 1)


class LabelReader:
    """In the place of a segmenter: knows the label map of an image by its file's number, which is painted into it."""

    name = "a reader of labels"

    def __init__(self, right: bool = True) -> None:
        self.right = right

    def classes(self, image, height, width):
        number = image.convert("RGB").getpixel((0, 0))[0]
        label = self.labels[number] if self.right else np.zeros_like(self.labels[number])
        return np.maximum(label.astype(int) - 1, 0)


def scored(name, split, drawn, judges, tmp_path):
    benchmark = BENCHMARKS[name]
    return score_drawn(
        benchmark, split, split.samples, drawn, judges, "64", tmp_path / "statistics.npz", lambda _line: None
    )


def test_real_images_have_no_distance_from_themselves(data, tmp_path) -> None:
    split = BENCHMARKS["pororo"].open(data, "test")
    real = dict(zip((sample.id for sample in split.samples), split.real_images, strict=True))
    for key, image in real.items():
        open_image(image).save(tmp_path / f"{key}.png")
    judges = Judges(CPU, MeanColours(), "6726825d")
    scores = scored("pororo", split, lambda key: tmp_path / f"{key}.png", judges, tmp_path)
    assert abs(scores.value) < 1e-4, "square roots of 2,000 eigenvalues that are rounding"
    assert "16 drawn and 16 real" in scores.notes[0]
    assert "singular" in scores.notes[1]
    kept = (tmp_path / "statistics.npz").stat().st_mtime_ns
    for key in real:
        Image.new("RGB", (64, 64), "red").save(tmp_path / f"{key}.png")
    assert scored("pororo", split, lambda key: tmp_path / f"{key}.png", judges, tmp_path).value > 0.1
    assert (tmp_path / "statistics.npz").stat().st_mtime_ns == kept, "the real side is computed once"
    other = Judges(CPU, MeanColours(), "0000")
    scores = scored("pororo", split, lambda key: tmp_path / f"{key}.png", other, tmp_path)
    assert (tmp_path / "statistics.npz").stat().st_mtime_ns != kept, "other weights"
    assert "weights are others than the published ones" in scores.notes[-1]


def test_likeness_by_clip(data, tmp_path) -> None:
    split = BENCHMARKS["vist"].open(data, "val")
    real = dict(zip((sample.id for sample in split.samples), split.real_images, strict=True))
    clip = Clip(write_clip(tmp_path / "clip"), CPU)
    scores = scored("vist", split, lambda key: real[key].path, Judges(CPU, clip=clip), tmp_path)
    assert scores.value == pytest.approx(1, abs=1e-6)
    assert set(scores.by_sample) == set(real)
    assert "FID" not in scores.parts
    first = next(iter(real.values()))
    other = scored("vist", split, lambda _key: first.path, Judges(CPU, clip=clip), tmp_path)
    assert other.value < 1 - 1e-6


def test_the_label_as_the_prediction(data, tmp_path) -> None:
    split = BENCHMARKS["ade20k"].open(data, "validation")
    reader = LabelReader()
    reader.labels = [
        label_map(data / f"ade20k/ADEChallengeData2016/annotations/validation/{s.id}.png") for s in split.samples
    ]
    drawn = []
    for number in range(len(split.samples)):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
        drawn.append(path)
    images = [type(split.real_images[0])(path) for path in drawn]
    same = type(split)(split.name, split.samples, split.files, None, images)
    scores = score_label_maps(same, split.samples, images, reader, lambda _line: None)
    seen = {int(c) for label in reader.labels for c in np.unique(label) if c}
    assert scores.value == pytest.approx(len(seen) / 150)
    assert scores.parts["mIoU over the classes that occur"] == 1
    assert scores.parts["mIoU of the real images"] == scores.value
    assert set(scores.by_sample.values()) == {1.0}
    reader.right = False
    wrong = score_label_maps(same, split.samples, images, reader, lambda _line: None)
    assert wrong.value < scores.value


def test_what_is_needed_is_asked_for_before_anything_is_drawn() -> None:
    nothing = Judges(CPU)
    for name, option in (("coco_30k", "--inception FILE"), ("ade20k", "--segmenter DIR"), ("vist", "--clip DIR")):
        with pytest.raises(UsageError, match=f"{name} is scored with {option}, which was not given"):
            nothing.check(BENCHMARKS[name])
    nothing.check(BENCHMARKS["gqa"])


def test_label_maps_have_one_channel(tmp_path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="mode RGB; expected numbers of classes"):
        label_map(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="cannot be read"):
        label_map(tmp_path / "b.png")
