"""The task families: each makes a document that is a pure function of (seed, index, split, options).

Every `truth` has `images`: for each image, in reading order, its `facts` (None for a label map). Families whose
answer is text add `answer`, what the model should write after the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.generation.prompts import ASSISTANT, USER
from trainer.data.document import Document, Image, Segment, Text
from trainer.data.emoji import layouts
from trainer.data.emoji.atlas import sprites as all_sprites
from trainer.data.emoji.compositions import Split, allowed_colours, allowed_sprites, choose
from trainer.data.emoji.search_steps import REQUEST, place, search_places, search_positions
from trainer.data.emoji.world import COLOUR_NAMES, Placed, Scene, facts, label_map, render

SPLITS: tuple[Split, ...] = ("train", "val")
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
MAX_QUESTIONS = 4
MAX_SEARCHES = 3
"""Questions about one image whose answers search in writing, so that they fit into a row of the smallest recipe."""

STRANGERS_SHARE = 0.3
"""Of the captions to learn from, how many show sprites that this world has no names for."""

GROUNDING_PROMPT = " Provide the bounding box coordinate of the region this sentence describes: the {name}."
"""The paper's wording (appendix B.2, referring expression comprehension)."""


@dataclass(frozen=True)
class TaskOptions:
    """How hard the world is."""

    num_concepts: int = 32
    """The first so many sprites occur."""

    image_side: int = 64
    """Side of every image, a multiple of 64."""

    num_sprites: int = 9
    """The most sprites in an image to read numbers from, 1 to 9; small numbers make an easy beginning."""


Task = Callable[[int, int, Split, TaskOptions], Document]


def caption(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Name one to three sprites, how they stand, and the background (paper prompt `{image} a photo of`).

    In three of ten training documents there are strangers, any sprites of the atlas, and sprites of this world are
    named without loss: which background an image has is then to be seen in it, not to be guessed from the things on it
    or from their names, of which a tenth of the colours never goes with each.
    """
    rng = _rng("caption", seed, index, split)
    scene, direction, words = _things_in_a_row(rng, split, options.num_concepts)
    has_strangers = split == "train" and rng.random() < STRANGERS_SHARE
    if has_strangers:
        scene, direction, _ = _things_in_a_row(rng, split, len(all_sprites()))
        others = [int(other) for other in rng.permutation(options.num_concepts)[: len(scene.placed)]]
        words = _said(others, direction)
    background = f" on {_background(scene)}"
    segments: list[Segment] = [_image(scene, options), Text(" a photo of", loss=False)]
    segments += [Text(f" {words}", loss=False), Text(background)] if has_strangers else [Text(f" {words}{background}")]
    truth = {"images": [facts(scene, options.image_side)], "answer": words + background}
    return _document("caption", index, split, tuple(segments), 2, truth)


def known_caption(seed: int, index: int, split: Split, options: TaskOptions) -> str:
    """What `caption` says where there are no strangers."""
    scene, _, words = _things_in_a_row(_rng("caption", seed, index, split), split, options.num_concepts)
    return f"{words} on {_background(scene)}"


def _things_in_a_row(
    rng: np.random.Generator, split: Split, num_concepts: int
) -> tuple[Scene, layouts.Direction | None, str]:
    """One to three of so many sprites, how they stand, and what is said of them."""
    colour, sprites = choose(rng, split, int(rng.integers(1, 4)), num_concepts)
    direction = _direction(rng) if len(sprites) > 1 else None
    scene = (
        layouts.single(rng, colour, sprites[0]) if direction is None else layouts.line(rng, colour, sprites, direction)
    )
    return scene, direction, _said(sprites, direction)


def _said(sprites: Sequence[int], direction: layouts.Direction | None) -> str:
    return _phrase(sprites[0]) if direction is None else relation(list(sprites), direction)


def draw(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Text to image: one big sprite, or two side by side; the image is a function of the text."""
    rng = _rng("draw", seed, index, split)
    colour, sprites = choose(rng, split, int(rng.integers(1, 3)), options.num_concepts)
    if len(sprites) == 1:
        scene = layouts.centred(colour, sprites[0])
        words = f"a big {all_sprites()[sprites[0]].name}"
    else:
        direction = _direction(rng)
        scene = layouts.halves(colour, sprites, direction)
        words = relation(sprites, direction)
    segments = (Text(f"{words} on {_background(scene)}"), _image(scene, options))
    return _document("draw", index, split, segments, 1, {"images": [facts(scene, options.image_side)]})


def read(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Detail reading: which number is printed under a sprite; up to four questions about one image.

    The answer says where the sprite stands, then its number: "top left: 37". Looking comes easier to a small model once
    the place is written down. `truth["questions"]`: name and answer of each; the prompt ends with the first one.
    """
    return _reading("read", seed, index, split, options)


def read_steps(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """As `read`, step by step: "top left whale, middle strawberry: 11"; up to three questions."""
    return _reading("read_steps", seed, index, split, options)


def _reading(task: str, seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    in_steps = task == "read_steps"
    rng = _rng(task, seed, index, split)
    most = options.num_sprites
    count = int(rng.integers(min(4, most), most + 1))
    scene = layouts.numbered_grid(rng, *choose(rng, split, count, options.num_concepts))
    segments: list[Segment] = [_image(scene, options)]
    questions = []
    for chosen in rng.permutation(count)[: MAX_SEARCHES if in_steps else MAX_QUESTIONS]:
        item = scene.placed[chosen]
        found = search_places(scene.placed, item, layouts.GRID) if in_steps else place(item, layouts.GRID)
        name, answer = all_sprites()[item.sprite].name, f"{found}: {item.number}"
        request = REQUEST if in_steps else ""
        segments += [Text(f" which number is under the {name}?{request}", loss=False), Text(" " + answer)]
        questions.append({"name": name, "answer": answer})
    truth = {"images": [facts(scene, options.image_side)], "questions": questions, "answer": questions[0]["answer"]}
    return _document(task, index, split, tuple(segments), 2, truth)


def label_map_to_image(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Segmentation to image: class-coloured silhouettes and a caption, then the scene (paper B.2)."""
    return _label_map("label_map", seed, index, split, options)


def label_map_to_image_steps(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """As `label_map`, step by step: before it draws, the model writes what stands roughly where,
    "03 banana, 53 balloon on a red background"."""
    return _label_map("label_map_steps", seed, index, split, options)


def _label_map(task: str, seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    in_steps = task == "label_map_steps"
    rng = _rng(task, seed, index, split)
    scene = layouts.scattered(rng, *choose(rng, split, int(rng.integers(1, 4)), options.num_concepts))
    # From left to right, so that the caption is a function of the image. No gradient: the caption names one colour.
    scene = Scene(scene.colour, tuple(sorted(scene.placed, key=lambda item: (item.x, item.y))))
    words = _list([_phrase(item.sprite) for item in scene.placed])
    segments: list[Segment] = [Image(label_map(scene, options.image_side), draw=False)]
    segments.append(Text(f" {words} on {_background(scene)}{REQUEST if in_steps else ''}"))
    if in_steps:
        segments.append(Text(f" {search_positions(scene.placed, None)} on {_background(scene)}"))
    segments.append(_image(scene, options))
    truth = {"images": [None, facts(scene, options.image_side)]}
    return _document(task, index, split, tuple(segments), 2, truth)


def ground(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Grounding: the box of one of two to four sprites in 000 to 999, "(x1,y1)(x2,y2)" (paper B.2).

    `truth["box"]`: the four numbers; `truth["name"]`: the sprite asked for.
    """
    return _grounding("ground", seed, index, split, options)


def ground_steps(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """As `ground`, step by step: "03 banana, 53 balloon: (500,375)(734,703)"."""
    return _grounding("ground_steps", seed, index, split, options)


def _grounding(task: str, seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    in_steps = task == "ground_steps"
    rng = _rng(task, seed, index, split)
    scene = layouts.scattered(rng, *choose(rng, split, int(rng.integers(2, 5)), options.num_concepts))
    image = facts(scene, options.image_side)
    chosen = int(rng.integers(len(scene.placed)))
    asked = image["objects"][chosen]
    x1, y1, x2, y2 = asked["box"]
    answer = f"({x1:03},{y1:03})({x2:03},{y2:03})"
    if in_steps:
        answer = f"{search_positions(scene.placed, scene.placed[chosen])}: {answer}"
    request = REQUEST if in_steps else ""
    segments = (
        _image(scene, options),
        Text(GROUNDING_PROMPT.format(name=asked["name"]) + request, loss=False),
        Text(" " + answer),
    )
    truth = {"images": [image], "name": asked["name"], "box": asked["box"], "answer": answer}
    return _document(task, index, split, segments, 2, truth)


def compare(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Two to four images, two questions: the number under a sprite in one of them, and which one has a sprite.

    The sprite whose number is asked stands in every image, so the right image must be found; and no number stands in
    two images, so an answer tells which image was read.
    `truth["questions"]`: text and answer of each; the prompt ends with the first one.
    """
    rng = _rng("compare", seed, index, split)
    scenes = _scenes_to_compare(rng, split, options)
    one, other = (int(number) for number in rng.integers(len(scenes), size=2))
    item = scenes[one].placed[0]
    questions = [
        {"text": _number_question(item, one), "answer": f"{place(item, 2)}: {item.number}"},
        {"text": _image_question(scenes[other]), "answer": f"{1 + other}"},
    ]
    if rng.random() < 0.5:
        questions.reverse()
    return _comparison("compare", index, split, options, scenes, questions)


def compare_steps(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """As `compare`, step by step: in the image that is named, "image 4 top left snail, bottom left guitar, image 4:
    42"; or image after image, "image 1 top left bell, top right fox, image 2 bottom left mushroom: 2".

    Where the number stands in is written once more before it: what is to be looked at is then told by the word before.
    Up to three more numbers are asked for, of any sprite in any image: to look into the right image is learned from
    many questions about the same images (bench/LOG.md).
    """
    rng = _rng("compare_steps", seed, index, split)
    scenes = _scenes_to_compare(rng, split, options)
    one, other = (int(number) for number in rng.integers(len(scenes), size=2))
    questions = [
        _number_search(scenes, one, 0),
        {
            "text": _image_question(scenes[other]) + REQUEST,
            "answer": f"{_search_images(scenes, 0, other, 1)}: {1 + other}",
        },
    ]
    if rng.random() < 0.5:
        questions.reverse()
    others = [(image, which) for image in range(len(scenes)) for which in range(2) if (image, which) != (one, 0)]
    # Between the two: what ends a document teaches that its kind of answer ends there.
    questions[1:1] = [_number_search(scenes, *others[chosen]) for chosen in rng.permutation(len(others))[:MAX_SEARCHES]]
    return _comparison("compare_steps", index, split, options, scenes, questions)


def _scenes_to_compare(rng: np.random.Generator, split: Split, options: TaskOptions) -> list[Scene]:
    """Two to four, each with the same sprite first, and then another one."""
    shared_colour, shared = choose(rng, split, 1, options.num_concepts)
    asked, count = shared[0], int(rng.integers(2, 5))
    others = allowed_sprites(split, options.num_concepts, shared_colour, shared)
    # One other sprite an image and never the same, so "which image has" has one answer.
    companions = [others[number] for number in rng.permutation(len(others))[:count]]
    return layouts.with_numbers_apart(
        [layouts.numbered_grid(rng, shared_colour, [asked, companion], grid=2) for companion in companions]
    )


def _number_question(item: Placed, image: int) -> str:
    return f" which number is under the {all_sprites()[item.sprite].name} in image {1 + image}?"


def _image_question(scene: Scene) -> str:
    """Of the sprite that no other image has."""
    return f" which image has {_phrase(scene.placed[1].sprite)}?"


def _number_search(scenes: Sequence[Scene], image: int, which: int) -> dict[str, str]:
    item = scenes[image].placed[which]
    return {
        "text": _number_question(item, image) + REQUEST,
        "answer": f"{_search_images(scenes, image, image, which)}, image {1 + image}: {item.number}",
    }


def _comparison(
    task: str,
    index: int,
    split: Split,
    options: TaskOptions,
    scenes: Sequence[Scene],
    questions: Sequence[dict[str, str]],
) -> Document:
    """The images, each behind its number, and the questions with their answers."""
    segments: list[Segment] = []
    for number, scene in enumerate(scenes, start=1):
        label = f" image {number}:" if segments else f"image {number}:"
        segments += [Text(label, loss=False), Image(render(scene, options.image_side), draw=False)]
    for question in questions:
        segments += [Text(question["text"], loss=False), Text(" " + question["answer"])]
    truth = {
        "images": [facts(scene, options.image_side) for scene in scenes],
        "questions": questions,
        "answer": questions[0]["answer"],
    }
    return _document(task, index, split, tuple(segments), 2 * len(scenes) + 1, truth)


def _search_images(scenes: Sequence[Scene], first: int, last: int, sought: int) -> str:
    """The images from the first to the last, and what stands where in them, up to one thing of the last."""
    steps = []
    for number in range(first, last + 1):
        placed = scenes[number].placed
        steps.append(f"image {1 + number} {search_places(placed, placed[sought] if number == last else None, 2)}")
    return ", ".join(steps)


def story(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Four pairs of sentence and image; each image is a function of the text so far.

    A sprite stands in one of four quarters; then it moves, another appears, or the background changes. The prompt is
    the first sentence. `truth["sentences"]`: the four sentences.
    """
    return _story("story", seed, index, split, options)


def story_steps(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """As `story`, step by step: before each image the model writes what stands where in it, "top left whale, bottom
    right fire on a red background"."""
    return _story("story_steps", seed, index, split, options)


def _story(task: str, seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    in_steps = task == "story_steps"
    rng = _rng(task, seed, index, split)
    colour, sprites = choose(rng, split, 1, options.num_concepts)
    cells = {int(rng.integers(4)): sprites[0]}
    first = next(iter(cells))
    scenes = [layouts.quarters(colour, cells)]
    sentences = [f"{_phrase(sprites[0])} at the {QUARTERS[first]} on {_background(scenes[0])}"]
    for _ in range(3):
        sentence, colour, cells = _change(rng, split, options.num_concepts, colour, cells)
        sentences.append(sentence)
        scenes.append(layouts.quarters(colour, cells))
    segments: list[Segment] = []
    for sentence, scene in zip(sentences, scenes, strict=True):
        segments += _told_and_drawn((" " if segments else "") + sentence, scene, in_steps, options)
    truth = {"images": [facts(scene, options.image_side) for scene in scenes], "sentences": sentences}
    return _document(task, index, split, tuple(segments), 1, truth)


def arrange(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """Text to image by places: one or two sprites, each in a quarter, "a fire at the bottom right and a whale at the
    top left on a red background"; the image is a function of the text."""
    return _arrangement("arrange", seed, index, split, options)


def arrange_steps(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """As `arrange`, step by step: the places in reading order first, as in a story's plan."""
    return _arrangement("arrange_steps", seed, index, split, options)


def _arrangement(task: str, seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    in_steps = task == "arrange_steps"
    rng = _rng(task, seed, index, split)
    colour, sprites = choose(rng, split, int(rng.integers(1, 3)), options.num_concepts)
    cells = [int(cell) for cell in rng.permutation(4)[: len(sprites)]]
    scene = layouts.quarters(colour, dict(zip(cells, sprites, strict=True)))
    words = _list([f"{_phrase(sprite)} at the {QUARTERS[cell]}" for cell, sprite in zip(cells, sprites, strict=True)])
    segments = _told_and_drawn(f"{words} on {_background(scene)}", scene, in_steps, options)
    return _document(task, index, split, tuple(segments), 1, {"images": [facts(scene, options.image_side)]})


def _told_and_drawn(sentence: str, scene: Scene, in_steps: bool, options: TaskOptions) -> list[Segment]:
    """A sentence, in steps also what stands in which quarter, and the image."""
    if not in_steps:
        return [Text(sentence), _image(scene, options)]
    plan = f" {search_places(scene.placed, None, 2)} on {_background(scene)}"
    return [Text(f"{sentence}{REQUEST}"), Text(plan), _image(scene, options)]


def chat(seed: int, index: int, split: Split, options: TaskOptions) -> Document:
    """A chat: which number is under a sprite of the user's image; then the user wants a sprite of it drawn big.

    The prompt ends where the assistant's first turn begins.
    """
    rng = _rng("chat", seed, index, split)
    colour, sprites = choose(rng, split, int(rng.integers(1, min(4, options.num_sprites) + 1)), options.num_concepts)
    scene = layouts.numbered_grid(rng, colour, sprites)
    asked = scene.placed[rng.integers(len(sprites))]
    name, answer = all_sprites()[asked.sprite].name, f"{place(asked, layouts.GRID)}: {asked.number}"
    wanted = layouts.centred(colour, asked.sprite)
    segments = (
        Text(USER, loss=False),
        Image(render(scene, options.image_side), draw=False, placed=False),
        Text(f" which number is under the {name}?{ASSISTANT}", loss=False),
        Text(" " + answer, ends_turn=True),
        Text(f" {USER} draw a big {name} on {_background(wanted)}{ASSISTANT}", loss=False),
        _image(wanted, options),
    )
    truth = {"images": [facts(image, options.image_side) for image in (scene, wanted)], "answer": answer}
    return _document("chat", index, split, segments, 3, truth)


TASKS: dict[str, Task] = {
    "caption": caption,
    "draw": draw,
    "read": read,
    "label_map": label_map_to_image,
    "ground": ground,
    "compare": compare,
    "story": story,
    "chat": chat,
    "read_steps": read_steps,
    "ground_steps": ground_steps,
    "compare_steps": compare_steps,
    "label_map_steps": label_map_to_image_steps,
    "story_steps": story_steps,
    "arrange": arrange,
    "arrange_steps": arrange_steps,
}
PRETRAINING_FAMILIES = ("caption", "draw", "read", "label_map", "ground", "compare", "story")
"""Those that are learned unless others are asked for; of them the tokenizer was made."""

STEP_FAMILIES = ("read_steps", "ground_steps", "compare_steps", "label_map_steps", "story_steps", "arrange_steps")
"""Of these, what is answered after a search or a plan in writing."""


def documents(
    task: str, split: Split, start: int, count: int, *, seed: int = 0, options: TaskOptions = TaskOptions()
) -> list[Document]:
    """Documents start, start + 1, ... of one family, for evaluation."""
    if task not in TASKS or split not in SPLITS:
        raise ValueError(f"Task {task!r}, split {split!r}; expected one of {list(TASKS)} and one of {list(SPLITS)}.")
    return [TASKS[task](seed, index, split, options) for index in range(start, start + count)]


def relation(sprites: list[int], direction: layouts.Direction) -> str:
    """How two or three sprites stand, given from the left or from the top: "a snail left of a rocket"."""
    names = [_phrase(sprite) for sprite in sprites]
    if direction == "column":
        return " above ".join(names)
    if len(names) == 2:
        return f"{names[0]} left of {names[1]}"
    return f"{names[1]} between {names[0]} and {names[2]}"


def _change(
    rng: np.random.Generator, split: Split, num_concepts: int, colour: int, cells: dict[int, int]
) -> tuple[str, int, dict[int, int]]:
    """The next sentence of a story, and the background colour and the quarters after it."""
    newcomers = allowed_sprites(split, num_concepts, colour, cells.values()) if len(cells) == 1 else []
    colours = allowed_colours(split, colour, cells.values())
    kinds = ["moves"] * 2 + ["appears"] * bool(newcomers) + ["turns"] * bool(colours)
    kind = kinds[rng.integers(len(kinds))]
    if kind == "turns":
        colour = colours[rng.integers(len(colours))]
        return f"the background turns {COLOUR_NAMES[colour]}", colour, cells
    if kind == "appears":
        sprite = newcomers[rng.integers(len(newcomers))]
        free = [cell for cell in range(4) if cell not in cells]
        cell = free[rng.integers(len(free))]
        return f"{_phrase(sprite)} appears at the {QUARTERS[cell]}", colour, {**cells, cell: sprite}
    moves = [
        (cell, target, word)
        for cell in sorted(cells)
        for target, word in ((cell ^ 1, ("right", "left")[cell % 2]), (cell ^ 2, ("down", "up")[cell // 2]))
        if target not in cells
    ]
    cell, target, word = moves[rng.integers(len(moves))]
    rest = {place: sprite for place, sprite in cells.items() if place != cell}
    return f"the {all_sprites()[cells[cell]].name} moves {word}", colour, {**rest, target: cells[cell]}


def _rng(task: str, seed: int, index: int, split: Split) -> np.random.Generator:
    return np.random.default_rng([seed, list(TASKS).index(task), SPLITS.index(split), index])


def _document(
    task: str, index: int, split: Split, segments: tuple[Segment, ...], prompt: int, truth: dict[str, Any]
) -> Document:
    return Document(segments, task, f"emoji/{task}/{split}/{index}", prompt, truth)


def _image(scene: Scene, options: TaskOptions) -> Image:
    return Image(render(scene, options.image_side))


def _phrase(sprite: int) -> str:
    return all_sprites()[sprite].phrase


def _background(scene: Scene) -> str:
    name = COLOUR_NAMES[scene.colour]
    return f"{'an' if name[0] in 'aeio' else 'a'} {name} background"


def _direction(rng: np.random.Generator) -> layouts.Direction:
    return "row" if rng.random() < 0.5 else "column"


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
