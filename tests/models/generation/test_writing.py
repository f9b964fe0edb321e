import dataclasses

import pytest
import torch

from models import MMInterleavedConfig, MMInterleavedProcessor
from models.generation.options import GenerationOptions
from models.generation.writing import TextWriter, TokenChoice

CONFIG = MMInterleavedConfig.tiny()


def test_a_character_spread_over_tokens_is_shown_when_it_is_whole(processor: MMInterleavedProcessor) -> None:
    snail = processor.encode_text("\N{SNAIL}")
    assert len(snail) == 4
    writer = TextWriter(processor)
    assert [writer.add(token) for token in snail] == ["", "", "", "\N{SNAIL}"]
    assert writer.flush() == ""


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
    writer = TextWriter(processor, stops)
    shown = []
    for token in processor.encode_text(text):
        shown.append(writer.add(token))
        if writer.is_stopped:
            break
    assert shown == pieces[: len(shown)]
    assert writer.is_stopped == is_stopped
    assert "".join(shown) + writer.flush() == (text if not is_stopped else "".join(pieces))


def tokens(logits: list[float], **options: object) -> set[int]:
    """Tokens 5, 6, ... that come out for their logits."""
    padded = torch.full((CONFIG.language_model.transformer["vocab_size"],), -torch.inf)
    padded[5 : 5 + len(logits)] = torch.tensor(logits)
    choice = TokenChoice(GenerationOptions(**options), CONFIG, seed=0)
    return {choice(padded, [], may_draw=True) for _ in range(200)}


def test_how_tokens_are_chosen() -> None:
    logits = [1.0, 0.9, 0.8, -1.0]
    assert tokens(logits) == {5}
    assert tokens(logits, temperature=2.0) == {5, 6, 7, 8}
    assert tokens(logits, temperature=2.0, top_k=2) == {5, 6}
    assert tokens(logits, temperature=1.0, top_p=0.5) == {5, 6}
    assert tokens(logits, temperature=0.01) == {5}


def test_a_token_written_already_becomes_less_likely() -> None:
    logits = torch.zeros(CONFIG.language_model.transformer["vocab_size"])
    logits[7], logits[8] = 2.0, 1.5
    choice = TokenChoice(GenerationOptions(repetition_penalty=2.0), CONFIG, seed=0)
    assert choice(logits, [], may_draw=False) == 7
    assert choice(logits, [9, 7], may_draw=False) == 8


def test_forbidden_tokens_are_never_chosen() -> None:
    logits = torch.zeros(CONFIG.language_model.transformer["vocab_size"])
    logits[CONFIG.pad_token_id], logits[CONFIG.begin_of_image_id], logits[9] = 3.0, 2.0, 1.0
    choice = TokenChoice(GenerationOptions(), CONFIG, seed=0)
    assert choice(logits, [], may_draw=True) == CONFIG.begin_of_image_id
    assert choice(logits, [], may_draw=False) == 9


def test_a_model_that_begins_with_its_end_of_text_can_end() -> None:
    logits = torch.zeros(CONFIG.language_model.transformer["vocab_size"])
    logits[CONFIG.eos_token_id] = 1.0
    config = dataclasses.replace(CONFIG, bos_token_id=CONFIG.eos_token_id, pad_token_id=CONFIG.eos_token_id)
    assert TokenChoice(GenerationOptions(), config, seed=0)(logits, [], may_draw=False) == CONFIG.eos_token_id
