"""Which sprites and background colours may meet in one image, so that a tenth of the meetings stays unseen.

A tenth of all (sprite, colour) pairs and a tenth of all (sprite, sprite) pairs never occur in a training image; every
validation image that asks for it has at least one of them. The rules are arithmetic, so anybody can check them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from trainer.data.emoji.world import COLOUR_NAMES

Split = Literal["train", "val"]
MIN_CONCEPTS = 8
"""Fewer sprites would leave too few held-out pairs."""


def is_held_out_colour(sprite: int, colour: int) -> bool:
    """Whether a sprite on a background colour is kept for validation; most sprites have one such colour."""
    return (sprite + 3 * colour) % 10 == 3


def is_held_out_pair(sprite: int, other: int) -> bool:
    """Whether two sprites in one image are kept for validation."""
    return (sprite + other) % 10 == 7


def is_held_out(colour: int, sprites: Sequence[int]) -> bool:
    """Whether an image has any composition that training must not see."""
    return any(is_held_out_colour(sprite, colour) for sprite in sprites) or any(
        is_held_out_pair(a, b) for index, a in enumerate(sprites) for b in sprites[:index]
    )


def allowed_sprites(split: Split, num_concepts: int, colour: int, present: Collection[int]) -> list[int]:
    """Sprites that may join an image: different from those present and, in training, with nothing held out."""
    return [
        sprite
        for sprite in range(num_concepts)
        if sprite not in present
        and (
            split == "val"
            or not (is_held_out_colour(sprite, colour) or any(is_held_out_pair(sprite, other) for other in present))
        )
    ]


def allowed_colours(split: Split, colour: int, present: Collection[int]) -> list[int]:
    """Background colours that an image may change to from `colour`."""
    return [
        other
        for other in range(len(COLOUR_NAMES))
        if other != colour and (split == "val" or not any(is_held_out_colour(sprite, other) for sprite in present))
    ]


def choose(rng: np.random.Generator, split: Split, num_sprites: int, num_concepts: int) -> tuple[int, list[int]]:
    """A background colour and different sprites for one image.

    Training images hold nothing held-out; validation images hold at least one such composition.

    Raises:
        ValueError: `num_concepts` is too small for so many different sprites.
    """
    if num_concepts < MIN_CONCEPTS:
        raise ValueError(f"num_concepts is {num_concepts}; expected at least {MIN_CONCEPTS}.")
    for _ in range(100):
        colour, sprites = _seed_composition(rng, split, num_sprites, num_concepts)
        while len(sprites) < num_sprites:
            candidates = allowed_sprites(split, num_concepts, colour, sprites)
            if not candidates:
                break
            sprites.append(candidates[rng.integers(len(candidates))])
        else:
            return colour, [sprites[index] for index in rng.permutation(num_sprites)]
    raise ValueError(
        f"No {num_sprites} sprites of {num_concepts} may stand together; "
        f"take num_concepts >= {3 * num_sprites} or fewer sprites an image."
    )


def _seed_composition(
    rng: np.random.Generator, split: Split, num_sprites: int, num_concepts: int
) -> tuple[int, list[int]]:
    """The background colour, and in validation the first one or two sprites, which make the image held out."""
    any_colour = int(rng.integers(len(COLOUR_NAMES)))
    if split == "train":
        return any_colour, []
    if num_sprites == 1 or rng.random() < 0.5:
        combinations = [
            (colour, [sprite])
            for colour in range(len(COLOUR_NAMES))
            for sprite in range(num_concepts)
            if is_held_out_colour(sprite, colour)
        ]
    else:
        combinations = [(any_colour, [a, b]) for b in range(num_concepts) for a in range(b) if is_held_out_pair(a, b)]
    return combinations[rng.integers(len(combinations))]
