import numpy as np
import pytest
import torch
from PIL import Image

from models import MMInterleaved
from models.generation import scoring
from models.generation.torch_state import TorchGenerationState

IMAGE = Image.fromarray(np.full((32, 32, 3), 90, dtype=np.uint8))
CANDIDATES = ["yes", "no", "a much longer answer", "n", "yes"]


@torch.no_grad()
def log_probability(model: MMInterleaved, document: list, candidate: str) -> float:
    """Token by token, each time from the very beginning."""
    text, image = document
    ids = model.processor.encode_text(candidate)
    total = 0.0
    for known in range(len(ids)):
        state = TorchGenerationState(model)
        state.read([[[1, *model.processor.encode_text(text), 3], model.processor.encode_image(image), ids[:known]]])
        total += float(state.logits[0].log_softmax(-1)[ids[known]])
    return total


def test_scores_are_the_log_probabilities(model: MMInterleaved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CANDIDATES_AT_A_TIME", 2)  # in more than one go, with an odd one at the end
    document = ["is it?", IMAGE]
    scores = model.score(document, CANDIDATES)
    assert [score.candidate for score in scores] == CANDIDATES
    assert [score.num_tokens for score in scores] == [len(text) for text in CANDIDATES]
    for score in scores[:3]:
        assert score.log_probability == pytest.approx(log_probability(model, document, score.candidate), rel=1e-4)
    assert scores[0].log_probability == pytest.approx(scores[4].log_probability, rel=1e-5)
    assert sorted(score.rank for score in scores) == [1, 2, 3, 4, 5]
    assert next(score.candidate for score in scores if score.rank == 1) == "n"  # one token of about 1/1024
    by_mean = model.score(document, CANDIDATES, rank_by="mean")
    means = [score.log_probability / score.num_tokens for score in sorted(by_mean, key=lambda score: score.rank)]
    assert means == sorted(means, reverse=True)


def test_the_document_is_read_once(model: MMInterleaved) -> None:
    read: list[tuple[int, int]] = []
    encoded: list[int] = []
    model.language_model.decoder.register_forward_hook(
        lambda _module, _args, kwargs, _out: read.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    model.visual_tokenizer.register_forward_hook(lambda _module, args, _out: encoded.append(len(args[0])))
    model.score(["is it?", IMAGE], ["yes", "no"] * 5)
    assert read == [(1, 1 + 6 + 3), (10, 3)]
    assert encoded == [1]


@pytest.mark.parametrize(
    ("document", "candidates", "options", "message"),
    [
        (["a"], ["b", ""], {}, r"candidates\[1\] is '', which has no token"),
        (["a"], "b", {}, "score takes one document and a list of texts"),
        ([["a"], ["b"]], ["c"], {}, "score takes one document and a list of texts"),
        (["a"], ["b"], {"rank_by": "max"}, "rank_by is 'max'; expected 'sum' or 'mean'"),
        (["a"], ["b"], {"task": "caption"}, "0 images and 1 texts; expected .*image"),
        (["a"], ["b" * 600], {}, "Document 0 has 602 tokens; the language model reads 512, 90 less"),
    ],
)
def test_what_cannot_be_scored_is_refused(model: MMInterleaved, document, candidates, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        model.score(document, candidates, **options)
