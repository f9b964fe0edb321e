"""Which training samples stand before a sample, on samples whose right choice is known."""

from pathlib import Path

import numpy as np
import pytest

from trainer.benchmarks.few_shot.selection import ExamplePool
from trainer.benchmarks.sample import ImageFile, Sample
from trainer.errors import UsageError


def sample(number: str, image: str) -> Sample:
    return Sample(number, (ImageFile(Path(image)), "what is it?"))


TRAINING = [sample("t1", "a"), sample("t2", "b"), sample("t3", "c"), sample("t4", "c"), sample("t5", "d")]
ANGLES = {"a": 5.0, "b": 25.0, "c": 40.0, "d": 90.0, "asked": 30.0}
"""Of each image's features, whose lengths differ and must not count."""

FEATURES = {
    Path(name): np.float32(place + 1) * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32)
    for place, (name, angle) in enumerate(ANGLES.items())
}


def images(chosen: tuple[Sample, ...]) -> list[str]:
    return [str(one.images[0].path) for one in chosen]


def test_the_most_similar_image_stands_last_and_each_image_once() -> None:
    asked = sample("q", "asked")
    assert images(ExamplePool(TRAINING, 2).most_similar([asked], FEATURES)["q"]) == ["c", "b"]
    assert images(ExamplePool(TRAINING, 3).most_similar([asked], FEATURES)["q"]) == ["a", "c", "b"]


def test_the_image_that_is_asked_about_is_no_example() -> None:
    found = ExamplePool(TRAINING, 3).most_similar([sample("q", "b")], FEATURES)["q"]
    assert images(found) == ["d", "a", "c"]
    for seed in range(20):
        assert "b" not in images(ExamplePool(TRAINING, 3).at_random([sample("q", "b")], seed)["q"])


def test_samples_of_one_image_take_turns() -> None:
    asked = [sample(f"q{number}", "asked") for number in range(40)]
    chosen = ExamplePool(TRAINING, 2).most_similar(asked, FEATURES)
    assert {found[0].id for found in chosen.values()} == {"t3", "t4"}
    assert chosen == ExamplePool(TRAINING, 2).most_similar(asked, FEATURES)


def test_random_examples_depend_on_the_sample_and_the_seed_alone() -> None:
    pool = ExamplePool(TRAINING, 2)
    asked = [sample(f"q{number}", "asked") for number in range(30)]
    together = pool.at_random(asked, 0)
    assert together["q7"] == pool.at_random(asked[7:8], 0)["q7"]
    assert together != pool.at_random(asked, 1)
    assert {image for found in together.values() for image in images(found)} == set("abcd")
    assert all(len(set(images(found))) == 2 for found in together.values())


def test_too_few_images_are_told() -> None:
    with pytest.raises(UsageError, match="--num-shots is 4, and the training samples show 4 images"):
        ExamplePool(TRAINING, 4)
