"""Turns as one document: end to end, or as the trainer makes chats."""

from export.serve.content.references import ImageReference
from export.serve.protocol.templates import Turn, lay_out

IMAGE = ImageReference("data:image/png;base64,AA", "here")


def test_a_document_has_nothing_around_its_turns():
    turns = [Turn("system", ["s"]), Turn("user", ["a", IMAGE]), Turn("assistant", [" b"]), Turn("user", ["c"])]
    assert lay_out(turns, "document") == ["s", "a", IMAGE, " b", "c"]


def test_a_chat_has_the_words_that_training_has():
    turns = [
        Turn("user", ["look ", IMAGE, " what is it?"]),
        Turn("assistant", [" a snail"]),
        Turn("assistant", [IMAGE]),
        Turn("user", ["and now?"]),
    ]
    assert lay_out(turns, "chat") == [
        "USER: look",
        IMAGE,
        " what is it? ASSISTANT:",
        " a snail",
        IMAGE,
        " USER: and now? ASSISTANT:",
    ]


def test_turns_of_one_side_in_a_row_are_one():
    turns = [Turn("user", ["a"]), Turn("user", ["b"]), Turn("assistant", ["c"]), Turn("assistant", ["d"])]
    assert lay_out(turns, "chat") == ["USER: a b ASSISTANT:", " c", "d"]


def test_an_assistant_s_turn_that_comes_last_is_continued():
    assert lay_out([Turn("user", ["a"]), Turn("assistant", ["b"])], "chat") == ["USER: a ASSISTANT:", " b"]
    assert lay_out([Turn("system", ["s"]), Turn("user", [IMAGE])], "chat") == ["s", " USER:", IMAGE, " ASSISTANT:"]
