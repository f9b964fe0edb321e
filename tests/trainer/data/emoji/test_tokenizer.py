"""The shipped tokenizer."""

from __future__ import annotations

import json

import pytest

from trainer.data.document import Text
from trainer.data.emoji.atlas import sprites
from trainer.data.emoji.make_tokenizer import train_tokenizer
from trainer.data.emoji.tasks import PRETRAINING_FAMILIES, documents
from trainer.data.emoji.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, load_tokenizer


def test_special_tokens_come_first():
    tokenizer = load_tokenizer()
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert tokenizer.get_vocab_size() <= 1024


@pytest.mark.parametrize(
    "text",
    ["a snail", " a snail", "", "  two  spaces\n\tand more ", "Ünïcödé 漢字 🐌", "3.14 (012,999)(1,2)", "don't; x_y"],
)
def test_any_text_round_trips(text):
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_a_digit_is_a_token():
    assert load_tokenizer().encode(" 47").tokens == ["Ġ4", "7"]
    assert load_tokenizer().encode(" (012,345)").tokens == ["Ġ(", *"012,345)"]


def test_every_word_of_the_templates_and_the_first_64_names_is_one_token():
    tokenizer = load_tokenizer()
    texts = [
        segment.text
        for task in PRETRAINING_FAMILIES
        for document in documents(task, "train", 0, 100)
        for segment in document.segments
        if isinstance(segment, Text)
    ]
    texts += [f" {sprite.name}" for sprite in sprites()[:64]]
    words = {f" {word}" for text in texts for word in text.split() if word.isalpha()}
    assert {word for word in words if len(tokenizer.encode(word).ids) > 1} == set()


def test_cutting_a_text_before_a_space_cuts_its_tokens():
    tokenizer = load_tokenizer()
    parts = [" a photo of", " a snail left of a rocket", " 47"]
    assert tokenizer.encode("".join(parts)).ids == [token for part in parts for token in tokenizer.encode(part).ids]


@pytest.mark.slow
def test_training_again_gives_the_shipped_file():
    assert json.loads(train_tokenizer().to_str()) == json.loads(TOKENIZER_FILE.read_text(encoding="utf-8"))
