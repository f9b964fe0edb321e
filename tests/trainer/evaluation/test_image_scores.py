import numpy as np
import pytest

from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.emoji.world import Placed, Scene, facts, render
from trainer.evaluation.image_scores import (
    background_colour,
    background_right,
    foreground_iou,
    nearest_sprite,
    sprites_right,
    to_float,
)

NUM_CONCEPTS = 32
SNAIL, ROCKET, BANANA = 0, 1, 4
TRUE = Scene(3, (Placed(SNAIL, 2, 4, 26), Placed(ROCKET, 34, 32, 28)))
FACTS = facts(TRUE, 64)


def image_of(*placed: Placed, colour: int = 3) -> np.ndarray:
    return to_float(render(Scene(colour, placed)), 32)


@pytest.mark.parametrize("task", ["draw", "label_map", "story"])
def test_the_truth_scores_full_and_so_it_does_with_noise(task: str) -> None:
    noise = np.random.default_rng(0)
    for document in documents(task, "val", 0, 8, options=TaskOptions(num_concepts=NUM_CONCEPTS)):
        true, its_facts = to_float(document.segments[-1].pixels, 32), document.truth["images"][-1]
        noisy = np.clip(true + noise.normal(0, 0.1, true.shape), 0, 1).astype(np.float32)
        assert foreground_iou(true, true, its_facts) == 1
        for image in (true, noisy):
            assert sprites_right(image, its_facts, NUM_CONCEPTS) == 1
            assert background_right(image, its_facts) == 1


def test_a_wrong_or_missing_sprite_counts_as_wrong() -> None:
    snail, rocket = TRUE.placed
    assert sprites_right(image_of(snail, rocket), FACTS, NUM_CONCEPTS) == 1
    assert sprites_right(image_of(snail, Placed(BANANA, 34, 32, 28)), FACTS, NUM_CONCEPTS) == 0.5
    assert sprites_right(image_of(Placed(ROCKET, 2, 4, 26), Placed(SNAIL, 34, 32, 28)), FACTS, NUM_CONCEPTS) == 0
    assert sprites_right(image_of(), FACTS, NUM_CONCEPTS) <= 0.5  # an empty square looks like one thin sprite


def test_a_sprite_may_be_mirrored_or_a_little_off_but_not_elsewhere() -> None:
    for sprite in range(NUM_CONCEPTS):
        lone = facts(Scene(3, (Placed(sprite, 20, 18, 26),)), 64)
        assert sprites_right(image_of(Placed(sprite, 20, 18, 26, flip=True)), lone, NUM_CONCEPTS) == 1
        assert sprites_right(image_of(Placed(sprite, 24, 14, 26)), lone, NUM_CONCEPTS) == 1
    lone = facts(Scene(3, (Placed(SNAIL, 20, 18, 26),)), 64)
    assert sprites_right(image_of(Placed(SNAIL, 20, 38, 26)), lone, NUM_CONCEPTS) == 0


def test_a_sprite_at_the_edge_is_compared_too() -> None:
    corner = facts(Scene(3, (Placed(ROCKET, 38, 38, 26),)), 64)
    assert sprites_right(image_of(Placed(ROCKET, 38, 38, 26)), corner, NUM_CONCEPTS) == 1
    assert sprites_right(image_of(Placed(ROCKET, 34, 36, 26)), corner, NUM_CONCEPTS) == 1


def test_sprites_are_told_apart_on_a_background_of_another_colour() -> None:
    other = image_of(*TRUE.placed, colour=5)
    assert sprites_right(other, FACTS, NUM_CONCEPTS) == 1
    assert background_right(other, FACTS) == 0


def test_the_background_is_measured_where_no_sprite_belongs() -> None:
    assert background_right(image_of(*TRUE.placed), FACTS) == 1
    assert background_right(image_of(), FACTS) == 1
    upper_two_thirds = {"objects": [{"square": (x, y, 20)} for x in (0, 22, 44) for y in (0, 20)]}
    image = image_of()
    green = image[-1, -1].copy()
    image[:20] = 0
    np.testing.assert_array_equal(background_colour(image, upper_two_thirds), green)
    covered = facts(Scene(3, (Placed(SNAIL, 0, 0, 64),)), 64)
    with pytest.raises(ValueError, match="cover the whole image"):
        background_right(image_of(), covered)


def test_every_candidate_is_found_at_every_size() -> None:
    background = np.array([0.5, 0.6, 0.7], dtype=np.float32)
    for size in (18, 30, 52):
        for sprite in range(0, NUM_CONCEPTS, 7):
            scene = Scene(6, (Placed(sprite, 5, 7, size),))
            grey = to_float(render(scene), 32)
            assert nearest_sprite(grey, (5, 7, size), grey[0, 0], NUM_CONCEPTS) == sprite
    assert 0 <= nearest_sprite(np.broadcast_to(background, (32, 32, 3)), (5, 7, 18), background, NUM_CONCEPTS) < 32


def test_foreground_overlap_counts_the_shapes() -> None:
    true, snail = image_of(*TRUE.placed), image_of(TRUE.placed[0])
    rocket = image_of(TRUE.placed[1])
    assert foreground_iou(true, true, FACTS) == 1
    assert foreground_iou(image_of(), true, FACTS) == 0
    shares = foreground_iou(snail, true, FACTS), foreground_iou(rocket, true, FACTS)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.25
    assert foreground_iou(image_of(*TRUE.placed, colour=5), true, FACTS) > 0.8
