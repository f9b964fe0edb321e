"""The committed sprites."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from trainer.data.emoji import atlas


def test_there_are_256_different_sprites_named_by_unicode():
    sprites = atlas.sprites()
    assert len(sprites) == len({sprite.name for sprite in sprites}) == 256
    for sprite in sprites:
        assert unicodedata.name(chr(int(sprite.code_point.removeprefix("U+"), 16))).lower() == sprite.name


def test_articles():
    phrases = {sprite.name: sprite.phrase for sprite in atlas.sprites()}
    assert phrases["snail"] == "a snail"
    assert phrases["octopus"] == "an octopus"
    assert phrases["umbrella"] == "an umbrella"
    assert phrases["unicorn face"] == "a unicorn face"
    assert phrases["grapes"] == "grapes"


def test_the_atlas_is_small_and_carries_its_licence():
    folder = Path(atlas.__file__).parent
    assert atlas.ATLAS_PIXELS.stat().st_size <= 2 * 2**20
    notice = (folder / "NOTICE").read_text()
    assert "Noto Color Emoji" in notice
    assert "OFL-1.1" in notice
    licence = (folder / "OFL.txt").read_text()
    for heading in ("PREAMBLE", "DEFINITIONS", "PERMISSION & CONDITIONS", "TERMINATION", "DISCLAIMER"):
        assert heading in licence


def test_every_sprite_shows_a_image_of_its_own():
    seen = set()
    for index in range(256):
        colour, alpha = atlas.sprite_pixels(index, atlas.SPRITE_PX, False)
        assert colour.shape == (64, 64, 3)
        assert alpha.shape == (64, 64, 1)
        assert (alpha >= 128).mean() > 0.04
        assert (colour <= 255 * alpha.astype(np.int64)).all()
        seen.add(colour.tobytes())
    assert len(seen) == 256


def test_a_flipped_sprite_is_its_mirror_image():
    for side in (64, 20):
        for straight, mirrored in zip(
            atlas.sprite_pixels(0, side, False), atlas.sprite_pixels(0, side, True), strict=True
        ):
            np.testing.assert_allclose(straight[:, ::-1].astype(float) / 255, mirrored / 255.0, atol=2)
