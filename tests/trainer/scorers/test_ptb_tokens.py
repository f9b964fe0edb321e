import shutil
from collections.abc import Callable
from typing import Any

import pytest

from trainer.scorers.ptb_tokens import ptb_tokens

Official = Callable[[str], Any]

KNOWN_DIFFERENCES = {"US$5", "m²", "’tis", "(555) 123-4567", "v1.2.3"}
"""Of 1,182 texts, those whose words are others here. A rule that mends one shall not break another."""


def test_words_are_those_of_the_official_tokenizer(official: Official) -> None:
    texts = official("ptb_tokenizer")
    assert len(texts) == 1182
    assert {text for text, words in texts if " ".join(ptb_tokens(text)) != words} == KNOWN_DIFFERENCES


@pytest.mark.parametrize(("name", "num_texts"), [("captions", 1200), ("captions_ugly", 123)])
def test_words_of_captions(official: Official, name: str, num_texts: int) -> None:
    found = official(name)
    pairs = list(zip(found["predictions"], found["tokenized_predictions"], strict=True))
    for texts, words in zip(found["references"], found["tokenized_references"], strict=True):
        pairs += zip(texts, words, strict=True)
    assert len(pairs) == num_texts
    assert [text for text, words in pairs if " ".join(ptb_tokens(text)) != words] == []


def test_white_space_of_any_kind_only_separates(official: Official) -> None:
    for name, case in official("captions_ugly")["line_breakers"].items():
        first = ptb_tokens(case["captions"][0])
        assert first == (["firsthalf"] if name == "soft hyphen" else ["first", "half"]), name
    # what the official wrapper does: the caption behind a carriage return moves to another image
    assert official("captions_ugly")["line_breakers"]["carriage return"]["tokens"][0] == "first"


@pytest.mark.skipif(shutil.which("java") is None, reason="needs java, and the package pycocoevalcap")
def test_live_against_pycocoevalcap(official: Official) -> None:
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="needs the package pycocoevalcap")
    captions = official("captions")["predictions"]
    answer = tokenizer.PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    assert [" ".join(ptb_tokens(text)) for text in captions] == [answer[i][0] for i in range(len(captions))]
