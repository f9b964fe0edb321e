"""Labels against images: what `world` says about a scene is read back from the rendering."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.emoji import world
from trainer.data.emoji.digits import DIGITS
from trainer.data.emoji.layouts import numbered_grid, random_scene, scattered
from trainer.data.emoji.world import Placed, Scene

WHITE, BLUE = world.COLOUR_NAMES.index("white"), world.COLOUR_NAMES.index("blue")


def coverage(placed: tuple[Placed, ...], image_side: int) -> np.ndarray:
    """How much of each pixel sprites cover, [h, w] in 0 to 1, from two renderings on different backgrounds."""
    on_white = world.render(Scene(WHITE, placed), image_side)[..., 0].astype(float)
    on_blue = world.render(Scene(BLUE, placed), image_side)[..., 0].astype(float)
    return 1 - (on_white - on_blue) / (world.COLOURS["white"][0] - world.COLOURS["blue"][0])


@pytest.mark.parametrize("image_side", [64, 128])
def test_masks_and_boxes_are_what_the_rendering_shows(image_side):
    for index in range(20):
        scene = scattered(np.random.default_rng(index), 0, [3 * index % 256, (5 * index + 1) % 256])
        masks = world.masks(scene, image_side)
        for item, mask, box in zip(scene.placed, masks, world.boxes(scene, image_side), strict=True):
            covered = coverage((item,), image_side)
            decided = abs(covered - 0.5) > 0.02  # the estimate is exact to one grey level in 140
            np.testing.assert_array_equal(mask[decided], covered[decided] > 0.5)
            rows, columns = np.nonzero(mask)
            assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_later_sprite_hides_what_it_covers():
    back, front = Placed(4, 10, 10, 40), Placed(8, 20, 20, 40)
    masks = world.masks(Scene(0, (back, front)))
    alone = world.masks(Scene(0, (back,)))[0]
    np.testing.assert_array_equal(masks[1], world.masks(Scene(0, (front,)))[0])
    np.testing.assert_array_equal(masks[0], alone & ~masks[1])
    assert masks[0].sum() < alone.sum()
    assert world.boxes(Scene(0, (back, front)))[0] == world.boxes(Scene(0, (back,)))[0]


@pytest.mark.parametrize("image_side", [64, 128])
def test_printed_digits_are_where_the_labels_say(image_side):
    scale = image_side // 64
    for index in range(20):
        scene = numbered_grid(np.random.default_rng(index), index % 8, range(9))
        image = world.render(scene, image_side)
        labels = world.dense_labels(scene, 32, image_side)
        for item in scene.placed:
            y, x = (item.y + item.size + 1) * scale, item.number_x * scale
            for place, digit in enumerate(divmod(item.number, 10)):
                cell = (slice(y, y + 6 * scale), slice(x + 5 * place * scale, x + (5 * place + 4) * scale))
                assert (labels[cell] == 1 + 32 + digit).all()
                ink = (image[cell] == world.INK).all(-1)
                np.testing.assert_array_equal(ink[::scale, ::scale], DIGITS[digit])


def test_digits_differ_from_each_other_in_at_least_two_pixels():
    for a in range(10):
        for b in range(a):
            assert (DIGITS[a] != DIGITS[b]).sum() >= 2


def test_dense_labels_and_label_map_colour_the_same_silhouettes():
    scene = random_scene(0, 11, num_concepts=32)
    labels, image = world.dense_labels(scene, 32), world.label_map(scene)
    for item, mask in zip(scene.placed, world.masks(scene), strict=True):
        assert (image[mask] == world.label_colours()[item.sprite]).all()
        assert set(np.unique(labels[mask])) - set(range(33, 43)) == {1 + item.sprite}
    assert not image[~world.masks(scene).any(0)].any()
    assert labels.max() < world.num_label_classes(32)


def test_label_colours_are_all_different():
    assert len({tuple(colour) for colour in world.label_colours().tolist()}) == 256


def test_a_larger_image_shows_the_same_scene():
    scene = random_scene(0, 5, num_concepts=32)
    small = world.render(scene, 64).astype(float)
    large = world.render(scene, 128).astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert abs(small - large).mean() < 4


def test_scenes_are_pure_functions_of_seed_and_index():
    scenes = [random_scene(3, index, num_concepts=32) for index in range(50)]
    assert scenes == [random_scene(3, index, num_concepts=32) for index in range(50)]
    assert len(set(scenes)) == 50
    assert scenes[0] != random_scene(4, 0, num_concepts=32)


def test_boxes_per_mille():
    assert world.box_per_mille((0, 16, 32, 64), 64) == (0, 250, 500, 999)


def test_wrong_sizes_and_places_are_refused():
    with pytest.raises(ValueError, match="32 px was asked for; expected a multiple of 64"):
        world.render(Scene(0, ()), 32)
    with pytest.raises(ValueError, match="leaves the canvas"):
        Placed(0, 50, 0, 20)
    with pytest.raises(ValueError, match="leaves the canvas"):
        Placed(0, 0, 50, 10, number=12)
    with pytest.raises(ValueError, match="00 to 99"):
        Placed(0, 0, 0, 10, number=100)
    with pytest.raises(ValueError, match="sprite 9; expected one of the first 9"):
        world.dense_labels(Scene(0, (Placed(9, 0, 0, 10),)), 9)
