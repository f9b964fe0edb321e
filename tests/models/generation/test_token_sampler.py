import dataclasses

import torch

from models import MMInterleavedConfig
from models.generation.options import GenerationOptions
from models.generation.token_sampler import TokenSampler

CONFIG = MMInterleavedConfig.tiny()


def tokens(logits: list[float], **options: object) -> set[int]:
    """Tokens 5, 6, ... that come out for their logits."""
    padded = torch.full((CONFIG.language_model.transformer["vocab_size"],), -torch.inf)
    padded[5 : 5 + len(logits)] = torch.tensor(logits)
    sampler = TokenSampler(GenerationOptions(**options), CONFIG, seed=0)
    return {sampler(padded, [], may_draw=True) for _ in range(200)}


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
    sampler = TokenSampler(GenerationOptions(repetition_penalty=2.0), CONFIG, seed=0)
    assert sampler(logits, [], may_draw=False) == 7
    assert sampler(logits, [9, 7], may_draw=False) == 8


def test_forbidden_tokens_are_never_chosen() -> None:
    logits = torch.zeros(CONFIG.language_model.transformer["vocab_size"])
    logits[CONFIG.pad_token_id], logits[CONFIG.begin_of_image_id], logits[9] = 3.0, 2.0, 1.0
    sampler = TokenSampler(GenerationOptions(), CONFIG, seed=0)
    assert sampler(logits, [], may_draw=True) == CONFIG.begin_of_image_id
    assert sampler(logits, [], may_draw=False) == 9


def test_the_end_token_waits_for_the_least_length() -> None:
    logits = torch.zeros(CONFIG.language_model.transformer["vocab_size"])
    logits[CONFIG.eos_token_id], logits[9] = 2.0, 1.0
    sampler = TokenSampler(GenerationOptions(min_new_tokens=2), CONFIG, seed=0)
    assert [sampler(logits, [9] * n, may_draw=False) for n in range(3)] == [9, 9, CONFIG.eos_token_id]


def test_a_model_that_begins_with_its_end_of_text_can_end() -> None:
    logits = torch.zeros(CONFIG.language_model.transformer["vocab_size"])
    logits[CONFIG.eos_token_id] = 1.0
    config = dataclasses.replace(CONFIG, bos_token_id=CONFIG.eos_token_id, pad_token_id=CONFIG.eos_token_id)
    assert TokenSampler(GenerationOptions(), config, seed=0)(logits, [], may_draw=False) == CONFIG.eos_token_id
