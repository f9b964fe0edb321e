import pytest

from trainer.scorers.answers import exact_answer, first_sentence, one_line, short_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [(" A cat.\nQuestion: what", "A cat"), ("3.5", "3.5"), ("", ""), ("\n\n", ""), ("yes", "yes"), ("e.g.", "e.g")],
)
def test_short_answer(text: str, answer: str) -> None:
    assert short_answer(text) == answer
    assert exact_answer(text) == answer.lower()


def test_captions() -> None:
    assert first_sentence("a dog. on a mat.") == "a dog"
    assert first_sentence("no end") == "no end"
    assert one_line(" a dog.\r\nA\u2028cat\t") == "a dog. A cat"
