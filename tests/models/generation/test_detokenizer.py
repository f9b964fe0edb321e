import pytest

from models import MMInterleavedProcessor
from models.generation.detokenizer import IncrementalDetokenizer


def test_a_character_spread_over_tokens_is_shown_when_it_is_whole(processor: MMInterleavedProcessor) -> None:
    snail = processor.encode_text("\N{SNAIL}")
    assert len(snail) == 4
    detokenizer = IncrementalDetokenizer(processor)
    assert [detokenizer.add(token) for token in snail] == ["", "", "", "\N{SNAIL}"]
    assert detokenizer.flush() == ""


@pytest.mark.parametrize(
    ("text", "stops", "pieces", "is_stopped"),
    [
        ("ab.c", (".",), ["a", "b", "", ""], True),
        ("aENEND", ("END",), ["a", "", "", "EN", "", ""], True),
        ("aEN", ("END",), ["a", "", ""], False),
        ("xyz", ("yz", "z"), ["x", "", ""], True),
    ],
    ids=["one-character", "false-start", "never-complete", "the-first-of-two"],
)
def test_stop_texts_are_not_shown(processor: MMInterleavedProcessor, text, stops, pieces, is_stopped) -> None:
    detokenizer = IncrementalDetokenizer(processor, stops)
    shown = []
    for token in processor.encode_text(text):
        shown.append(detokenizer.add(token))
        if detokenizer.is_stopped:
            break
    assert shown == pieces[: len(shown)]
    assert detokenizer.is_stopped == is_stopped
    assert "".join(shown) + detokenizer.flush() == (text if not is_stopped else "".join(pieces))
