"""What has been read is found again; states are stand-ins of a known size."""

from __future__ import annotations

from typing import Any

from export.serve.engine.content_cache import ContentCache

TEXT = list(range(10, 30))
IMAGE = ["sha"] * 3


class State:
    """A state of one row that takes as many bytes as it has tokens."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.cropped: tuple[int, int, int] | None = None

    def copied(self, rows: list[int]) -> State:
        assert rows == [0]
        return State(self.num_bytes)

    def crop(self, row: int, num_tokens: int, num_images: int) -> None:
        self.cropped = (row, num_tokens, num_images)


def cache_of(max_bytes: int, *documents: list[Any]) -> ContentCache:
    cache = ContentCache(max_bytes)
    for items in documents:
        cache.put("", items, State(len(items)))  # type: ignore[arg-type]
    return cache


def test_what_is_continued_leaves_the_cache() -> None:
    cache = cache_of(100, TEXT)
    found = cache.take("", [*TEXT, 1, 2])
    assert found is not None
    assert (found[1], found[0].cropped, len(cache), cache.num_bytes) == (20, None, 0, 0)  # type: ignore[attr-defined]


def test_what_goes_on_otherwise_is_a_copy_without_the_rest() -> None:
    cache = cache_of(100, [*TEXT, *IMAGE, 1, 2])
    state, length = cache.take("", [*TEXT, *IMAGE, 1, 7]) or (None, 0)
    assert (length, state.cropped, len(cache)) == (24, (0, 24, 1), 1)  # type: ignore[union-attr]
    state, length = cache.take("", [*TEXT, *["other"] * 3, 1]) or (None, 0)
    assert (length, state.cropped) == (20, (0, 20, 0))  # type: ignore[union-attr]


def test_something_is_left_to_be_read_unless_nothing_was_cropped() -> None:
    cache = cache_of(100, [*TEXT, *IMAGE])
    assert (cache.take("", TEXT) or (None, 0))[1] == len(TEXT) - 1
    assert (cache.take("", [*TEXT, *IMAGE]) or (None, 0))[1] == len(TEXT) + 3
    cache = cache_of(100, [*TEXT, *IMAGE, 1])
    assert (cache.take("", [*TEXT, *IMAGE]) or (None, 0))[1] == len(TEXT), "an image is read whole"


def test_others_of_another_scope_find_nothing() -> None:
    cache = cache_of(100, TEXT)
    assert cache.take("key", [*TEXT, 1]) is None
    assert cache.take("", [1, *TEXT]) is None
    assert cache.take("", [*TEXT[:4], 1]) is None, "too short to be worth a copy"


def test_the_longest_beginning_is_taken() -> None:
    cache = cache_of(100, [*TEXT[:12], 1], [*TEXT[:16], 1], [*TEXT[:9], 1])
    assert (cache.take("", [*TEXT, 2]) or (None, 0))[1] == 16


def test_the_one_that_was_used_longest_ago_makes_room() -> None:
    first, second, third = ([number, *TEXT] for number in range(3))
    cache = cache_of(50, first, second)
    assert cache.take("", [*first[:-1], 1]) is not None  # used, and kept
    cache.put("", third, State(21))  # type: ignore[arg-type]
    assert (len(cache), cache.num_bytes) == (2, 42)
    assert cache.take("", [*second, 1]) is None
    assert cache.take("", [*first, 1]) is not None
    cache.put("", second, State(51))  # type: ignore[arg-type]
    assert (len(cache), cache.num_bytes) == (1, 21), "what is larger than the cache is not kept"


def test_a_document_takes_the_place_of_its_beginning() -> None:
    cache = cache_of(100, TEXT, [*TEXT, 1], [*TEXT, 2])
    assert len(cache) == 2
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)
