"""What is taken of samples, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data.compose import as_segments, chosen_images, entered_anywhere, in_reading_order
from trainer.data.config import SourceConfig
from trainer.data.document import Image, Text
from trainer.data.sources.sample import Sample, StoredImage

IMAGE = Image(np.zeros((2, 2, 3), dtype=np.uint8))


def stored(name: str, text: int = 0, similarity: float | None = None) -> StoredImage:
    return StoredImage(Path(name), 0, 1, text, similarity)


def sample(num_texts: int, *images: StoredImage, fixed_order: bool = False) -> Sample:
    return Sample("s/0", tuple(f"text {n}" for n in range(num_texts)), images, fixed_order)


def kept(item: Sample, seed: int = 0, **rules) -> list[str] | None:
    images = chosen_images(item, SourceConfig("m", **rules), np.random.default_rng(seed))
    return None if images is None else [image.path.name for image in images]


def test_dissimilar_images_are_dropped_and_unknown_ones_stay():
    document = sample(3, stored("a", 0, 0.239), stored("b", 1, 0.24), stored("c", 2, None))
    assert kept(document, min_similarity=0.24) == ["b", "c"]
    assert kept(document) == ["a", "b", "c"]


def test_at_most_six_images_stay_in_order_and_any_may():
    names = "abcdefghij"
    document = sample(10, *(stored(name, n) for n, name in enumerate(names)))
    choices = [kept(document, seed, max_images=6) for seed in range(50)]
    assert all(len(choice) == 6 and choice == sorted(choice) for choice in choices)
    assert {name for choice in choices for name in choice} == set(names)
    assert len({tuple(choice) for choice in choices}) > 30


def test_documents_without_images_are_dropped_and_half_of_those_with_one():
    assert kept(sample(2)) is None
    assert kept(sample(2, stored("a", 0, 0.1), stored("b", 1, 0.1)), min_similarity=0.24) is None
    assert kept(sample(2), keep_no_image=1.0) == []
    one = sample(2, stored("a"))
    assert kept(one) == ["a"]
    num_kept = sum(kept(one, seed, keep_one_image=0.5) is not None for seed in range(400))
    assert 160 < num_kept < 240
    assert all(kept(sample(2, stored("a"), stored("b")), seed, keep_one_image=0.0) for seed in range(20))


def test_short_captions_are_dropped_and_pairs_are_no_one_image_documents():
    pair = Sample("s/0", ("123456789",), (stored("a"),), False)
    assert kept(pair, min_caption_chars=10) is None
    assert kept(pair, min_caption_chars=9, keep_one_image=0.0) == ["a"]
    assert kept(Sample("s/0", ("",), (stored("a"),), False)) is None
    assert kept(sample(1), keep_no_image=1.0) == []


def test_images_stand_before_or_after_their_text():
    a, b, c = stored("a", 0), stored("b", 1), stored("c", 1)
    document = sample(3, a, b, c)
    assert in_reading_order(document, [a, b, c], lambda: True) == [a, "text 0", b, c, "text 1", "text 2"]
    assert in_reading_order(document, [a, b, c], lambda: False) == ["text 0", a, "text 1", b, c, "text 2"]
    turns = iter([True, False, True])
    assert in_reading_order(document, [a, b, c], lambda: next(turns)) == [a, "text 0", c, "text 1", b, "text 2"]


def test_a_fixed_order_stays():
    a, b = stored("a", 0), stored("b", 2)
    document = sample(2, a, b, fixed_order=True)
    assert in_reading_order(document, [a, b], lambda: False) == [a, "text 0", "text 1", b]


def test_segments_have_spaces_between_them_and_loss_where_it_belongs():
    segments = as_segments(["one", IMAGE, "two", "three"], text_loss_needs_image=True, space=" ")
    assert segments == (Text("one", loss=False), IMAGE, Text(" two"), Text(" three"))
    assert as_segments(["one", "two"], text_loss_needs_image=False, space="") == (Text("one"), Text("two"))


@pytest.mark.parametrize(("num_tokens", "starts"), [(7, {0}), (5, {0, 1}), (3, {0, 1, 2}), (1, {0, 1, 2, 3})])
def test_a_long_document_is_entered_wherever_enough_follows(num_tokens, starts):
    segments = (Text("ab"), Text(" c"), IMAGE, Text(" d"))
    lengths = {id(segment): length for segment, length in zip(segments, (2, 1, 2, 1), strict=True)}
    found = set()
    for seed in range(60):
        rest = entered_anywhere(segments, lambda s: lengths[id(s)], num_tokens, np.random.default_rng(seed))
        found.add(4 - len(rest))
        assert rest[-1] == (Text("d") if len(rest) == 1 else segments[-1])
        assert not isinstance(rest[0], Text) or not rest[0].text.startswith(" ")
    assert found == starts
