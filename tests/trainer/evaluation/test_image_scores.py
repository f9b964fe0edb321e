import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageFilter

from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.emoji.world import COLOURS, Placed, Scene, facts, render
from trainer.evaluation.image_scores import (
    background_of,
    background_right,
    foreground_iou,
    nearest_sprite,
    num_unasked,
    scene_scores,
    sprites_right,
    to_float,
)

NUM_CONCEPTS = 32
SNAIL, ROCKET, BANANA = 0, 1, 4
TRUE = Scene(3, (Placed(SNAIL, 2, 4, 26), Placed(ROCKET, 34, 32, 28)))
FACTS = facts(TRUE, 64)


def image_of(*placed: Placed, colour: int = 3) -> np.ndarray:
    return to_float(render(Scene(colour, placed)), 32)


def scene_right(image: np.ndarray, its_facts: dict, num_concepts: int) -> float:
    return scene_scores(image, its_facts, num_concepts)["scene"]


@pytest.mark.parametrize("task", ["draw", "label_map", "story"])
def test_the_truth_scores_full_and_so_it_does_with_noise_or_blurred(task: str) -> None:
    noise = np.random.default_rng(0)
    for document in documents(task, "val", 0, 8, options=TaskOptions(num_concepts=NUM_CONCEPTS)):
        true, its_facts = to_float(document.segments[-1].pixels, 32), document.truth["images"][-1]
        noisy = np.clip(true + noise.normal(0, 0.1, true.shape), 0, 1).astype(np.float32)
        assert foreground_iou(true, true, its_facts) == 1
        blurred = PILImage.fromarray(np.rint(true * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
        for image in (true, noisy, to_float(np.asarray(blurred), 32)):
            assert sprites_right(image, its_facts, NUM_CONCEPTS) == 1
            assert background_right(image, its_facts) == 1
            assert scene_right(image, its_facts, NUM_CONCEPTS) == 1


def test_a_wrong_or_missing_sprite_counts_as_wrong() -> None:
    snail, rocket = TRUE.placed
    assert sprites_right(image_of(snail, rocket), FACTS, NUM_CONCEPTS) == 1
    assert sprites_right(image_of(snail, Placed(BANANA, 34, 32, 28)), FACTS, NUM_CONCEPTS) == 0.5
    assert sprites_right(image_of(Placed(ROCKET, 2, 4, 26), Placed(SNAIL, 34, 32, 28)), FACTS, NUM_CONCEPTS) == 0
    assert sprites_right(image_of(rocket), FACTS, NUM_CONCEPTS) == 0.5


def test_nothing_is_no_sprite() -> None:
    """A blank square is nearer to a balloon than to any other sprite, and nearest to nothing."""
    for colour in range(len(COLOURS)):
        for sprite in range(NUM_CONCEPTS):
            lone = facts(Scene(colour, (Placed(sprite, 20, 18, 26),)), 64)
            blank = image_of(colour=colour)
            assert sprites_right(blank, lone, NUM_CONCEPTS) == scene_right(blank, lone, NUM_CONCEPTS) == 0
            square = blank.copy()
            square[9:22, 10:23] = image_of(Placed(sprite, 20, 18, 26), colour=colour)[9:22, 10:23].mean((0, 1))
            assert sprites_right(square, lone, NUM_CONCEPTS) == 0


@pytest.mark.parametrize("side", [32, 64])
def test_a_sprite_that_nobody_asked_for_counts_against_the_image(side: int) -> None:
    def drawn(*placed: Placed) -> np.ndarray:
        return to_float(render(Scene(3, placed)), side)

    snail, rocket = TRUE.placed
    background = background_of(drawn(), FACTS)
    for sprite in range(NUM_CONCEPTS):
        more = drawn(snail, rocket, Placed(sprite, 40, 2, 22))
        assert num_unasked(more, FACTS, background) == 1
        assert sprites_right(more, FACTS, NUM_CONCEPTS) == pytest.approx(2 / 3)
        assert scene_right(more, FACTS, NUM_CONCEPTS) == 0
    twice = drawn(snail, rocket, Placed(SNAIL, 40, 2, 22), Placed(ROCKET, 4, 38, 22))
    assert sprites_right(twice, FACTS, NUM_CONCEPTS) == 0.5
    smudge = drawn(snail, rocket)
    smudge[: side // 16, -side // 16 :] = 0
    assert scene_right(smudge, FACTS, NUM_CONCEPTS) == 1


def test_a_scene_is_right_as_a_whole_or_not_at_all() -> None:
    snail, rocket = TRUE.placed
    assert scene_right(image_of(snail, rocket), FACTS, NUM_CONCEPTS) == 1
    assert scene_right(image_of(snail, rocket, colour=5), FACTS, NUM_CONCEPTS) == 0
    assert scene_right(image_of(snail), FACTS, NUM_CONCEPTS) == 0


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
    np.testing.assert_allclose(background_of(image, upper_two_thirds), np.broadcast_to(green, image.shape), atol=1e-4)
    covered = facts(Scene(3, (Placed(SNAIL, 0, 0, 64),)), 64)
    with pytest.raises(ValueError, match="cover the whole image"):
        background_right(image_of(), covered)


def test_a_background_that_brightens_across_the_image_is_found_and_is_nothing() -> None:
    scene = Scene(3, TRUE.placed, gradient=(12, -12))
    image, empty = (to_float(render(one), 32) for one in (scene, Scene(3, (), gradient=(12, -12))))
    np.testing.assert_allclose(background_of(image, FACTS), empty, atol=1 / 128)
    assert scene_right(image, FACTS, NUM_CONCEPTS) == 1
    assert sprites_right(empty, FACTS, NUM_CONCEPTS) == num_unasked(empty, FACTS, background_of(empty, FACTS)) == 0


def test_the_background_is_the_commonest_colour_where_other_sprites_stand_in_its_area() -> None:
    lone = facts(Scene(3, (TRUE.placed[0],)), 64)
    crowded = image_of(TRUE.placed[0], Placed(ROCKET, 36, 1, 26), Placed(BANANA, 36, 37, 26), Placed(3, 1, 37, 26))
    assert background_right(crowded, lone) == 1
    assert sprites_right(crowded, lone, NUM_CONCEPTS) == pytest.approx(1 / 4)


def test_every_candidate_is_found_at_every_size() -> None:
    for size in (18, 30, 52):
        for sprite in range(0, NUM_CONCEPTS, 7):
            scene = Scene(6, (Placed(sprite, 5, 7, size),))
            grey = to_float(render(scene), 32)
            assert nearest_sprite(grey, (5, 7, size), background_of(grey, facts(scene, 64)), NUM_CONCEPTS) == sprite


def test_foreground_overlap_counts_the_shapes() -> None:
    true, snail = image_of(*TRUE.placed), image_of(TRUE.placed[0])
    rocket = image_of(TRUE.placed[1])
    assert foreground_iou(true, true, FACTS) == 1
    assert foreground_iou(image_of(), true, FACTS) == 0
    shares = foreground_iou(snail, true, FACTS), foreground_iou(rocket, true, FACTS)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.25
    assert foreground_iou(image_of(*TRUE.placed, colour=5), true, FACTS) > 0.8
