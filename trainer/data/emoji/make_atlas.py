"""Renders the sprite atlas from the Noto Color Emoji font: `python -m trainer.data.emoji.make_atlas`.

The atlas travels with the repository, so this is only needed to change the choice of sprites. The font is Debian's
package `fonts-noto-color-emoji` (OFL-1.1, see the NOTICE next to the atlas); a sprite's name is its Unicode name.
"""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from models.program import run_program
from models.urls import local_path
from trainer.data.emoji.atlas import ATLAS_COLUMNS, ATLAS_NAMES, ATLAS_PIXELS, SPRITE_PX

DEFAULT_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_PX = 109  # the only size of the font's bitmaps
GLYPH_PX = (136, 128)  # width, height of one bitmap

# Order matters: a world of n concepts uses the first n, so the clearest and most different ones come first.
SPRITE_NAMES = """
snail, rocket, strawberry, penguin, banana, octopus, cactus, crown, hamburger, butterfly, fire, tomato, guitar,
balloon, key, whale, mushroom, bell, sunflower, pineapple, automobile, tractor, anchor, ghost, doughnut, elephant,
watermelon, turtle, tulip, skull, umbrella, robot face, frog face, lemon, grapes, carrot, bicycle, sailboat, rainbow,
gem stone, pig face, baby chick, fox face, crab, evergreen tree, slice of pizza, basketball and hoop, sheep,
lady beetle, cherries, airplane, trophy, lion face, panda face, broccoli, wrapped present, honeybee, avocado,
steam locomotive, alarm clock, owl, dolphin, teddy bear, unicorn face, dog face, cat face, mouse face, hamster face,
rabbit face, bear face, koala, tiger face, cow face, monkey face, chicken, rooster, bird, duck, eagle, parrot,
peacock, swan, flamingo, bat, wolf face, boar, horse, zebra face, deer, giraffe face, dromedary camel, rhinoceros,
hippopotamus, crocodile, snake, lizard, sauropod, t-rex, fish, tropical fish, blowfish, shark, spiral shell, bug, ant,
spider, scorpion, jack-o-lantern, goat, llama, kangaroo, otter, sloth, hedgehog, squid, shrimp, lobster, beaver,
bison, mammoth, cherry blossom, rose, hibiscus, blossom, seedling, deciduous tree, palm tree, four leaf clover,
maple leaf, fallen leaf, ear of maize, hot pepper, green apple, red apple, pear, peach, melon, tangerine, mango,
kiwifruit, coconut, aubergine, potato, cucumber, garlic, onion, peanuts, bread, croissant, baguette bread, pretzel,
pancakes, waffle, cheese wedge, meat on bone, poultry leg, bacon, french fries, hot dog, sandwich, taco, burrito, egg,
cooking, popcorn, sushi, fried shrimp, soft ice cream, ice cream, cookie, birthday cake, shortcake, cupcake, pie,
chocolate bar, candy, lollipop, honey pot, baby bottle, teapot, wine glass, cocktail glass, beer mug, cup with straw,
earth globe americas, volcano, house building, european castle, tent, hospital, factory, umbrella on ground,
ferris wheel, bus, fire engine, ambulance, police car, taxi, delivery truck, racing car, motor scooter, skateboard,
helicopter, speedboat, ship, flying saucer, parachute, hourglass, full moon symbol, crescent moon, sun with face,
white medium star, cloud with lightning, snowflake, snowman, droplet, water wave, christmas tree, party popper,
sports medal, soccer ball, baseball, american football, tennis racquet and ball, bowling, game die, yo-yo, kite,
crystal ball, magic wand, artist palette, violin, trumpet, drum with drumsticks, accordion, microphone, headphone,
camera, television, radio, telephone receiver, battery, electric light bulb, candle, books, money bag, envelope,
package, pencil, briefcase, wrench, lock, hammer, axe, magnet, ladder
"""
# Names that take no article: plurals and substances. All others take "a" or "an".
WITHOUT_ARTICLE = {
    "grapes", "cherries", "broccoli", "peanuts", "pancakes", "bread", "baguette bread", "garlic", "bacon",
    "french fries", "popcorn", "sushi", "books",
}  # fmt: skip


def article(name: str) -> str:
    """The indefinite article of a sprite name: "a", "an" or nothing (plurals and substances)."""
    if name in WITHOUT_ARTICLE:
        return ""
    return "an" if name[0] in "aeio" or name.startswith("umbrella") else "a"


def render_sprite(font: ImageFont.FreeTypeFont, character: str) -> PILImage.Image:
    """One pictograph, cut to its visible part and fitted into a square of `SPRITE_PX` pixels, RGBA."""
    glyph = PILImage.new("RGBA", GLYPH_PX)
    ImageDraw.Draw(glyph).text((0, 0), character, font=font, embedded_color=True, anchor="lt")
    box = glyph.getchannel("A").point(lambda alpha: 255 * (alpha >= 16)).getbbox()
    if box is None:
        raise ValueError(f"the font has no image for {character!r}; take that name out of SPRITE_NAMES")
    glyph = glyph.crop(box)
    scale = SPRITE_PX / max(glyph.size)
    # Premultiplied, so that the invisible pixels' colour does not bleed into the edge.
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    glyph = glyph.convert("RGBa").resize(size, PILImage.Resampling.LANCZOS).convert("RGBA")
    sprite = PILImage.new("RGBA", (SPRITE_PX, SPRITE_PX))
    sprite.paste(glyph, ((SPRITE_PX - size[0]) // 2, (SPRITE_PX - size[1]) // 2))
    return sprite


def make_atlas(font_path: Path) -> tuple[PILImage.Image, list[dict[str, str]]]:
    """The atlas image, row-major, `ATLAS_COLUMNS` sprites a row, and one record a sprite."""
    if not font_path.is_file():
        raise ValueError(f"no font at {font_path}; install the Debian package fonts-noto-color-emoji or pass --font")
    names = [name.strip() for name in SPRITE_NAMES.replace("\n", " ").split(",")]
    if len(set(names)) != len(names) or len(names) % ATLAS_COLUMNS:
        raise ValueError(f"{len(names)} names, {len(set(names))} different; expected different names in full rows")
    font = ImageFont.truetype(str(font_path), FONT_PX)
    atlas = PILImage.new("RGBA", (ATLAS_COLUMNS * SPRITE_PX, len(names) // ATLAS_COLUMNS * SPRITE_PX))
    records = []
    for index, name in enumerate(names):
        character = unicodedata.lookup(name.upper())
        corner = (index % ATLAS_COLUMNS * SPRITE_PX, index // ATLAS_COLUMNS * SPRITE_PX)
        atlas.paste(render_sprite(font, character), corner)
        records.append({"name": name, "article": article(name), "code_point": f"U+{ord(character):04X}"})
    return atlas, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", type=local_path, default=DEFAULT_FONT, help="NotoColorEmoji.ttf with bitmaps (CBDT)")
    args = parser.parse_args()
    atlas, records = make_atlas(args.font)
    atlas.save(ATLAS_PIXELS, optimize=True)
    lines = ",\n".join(json.dumps(record) for record in records)
    ATLAS_NAMES.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(records)} sprites, {ATLAS_PIXELS.stat().st_size} bytes in {ATLAS_PIXELS.name}")


if __name__ == "__main__":
    sys.exit(run_program(main))
