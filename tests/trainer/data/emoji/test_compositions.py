"""Held-out compositions."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.emoji.compositions import choose, is_held_out, is_held_out_colour, is_held_out_pair


def test_a_tenth_of_all_compositions_is_held_out():
    colours = [is_held_out_colour(sprite, colour) for sprite in range(160) for colour in range(8)]
    pairs = [is_held_out_pair(a, b) for a in range(160) for b in range(a)]
    assert np.mean(colours) == pytest.approx(0.1)
    assert np.mean(pairs) == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("num_sprites", [1, 2, 3, 9])
def test_training_never_and_validation_always_holds_one(num_sprites):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for _ in range(200):
            colour, sprites = choose(rng, split, num_sprites, 32)
            assert len(set(sprites)) == len(sprites) == num_sprites
            assert set(sprites) <= set(range(32))
            assert is_held_out(colour, sprites) == (split == "val")


def test_the_smallest_world_has_room_for_four_sprites():
    rng = np.random.default_rng(0)
    assert all(len(choose(rng, split, 4, 8)[1]) == 4 for split in ("train", "val") for _ in range(100))


def test_all_allowed_compositions_occur_in_training():
    rng = np.random.default_rng(0)
    seen = {(sprites[0], colour) for colour, sprites in (choose(rng, "train", 1, 8) for _ in range(1000))}
    assert seen == {(s, c) for s in range(8) for c in range(8) if not is_held_out_colour(s, c)}


def test_too_small_worlds_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 8"):
        choose(rng, "train", 1, 7)
    with pytest.raises(ValueError, match="No 9 sprites of 8"):
        choose(rng, "train", 9, 8)
