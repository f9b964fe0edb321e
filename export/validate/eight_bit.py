"""The checks of a language model with eight-bit weights. PyTorch has no such errors to compare with, so it is judged by
direction and length of its outputs, and by the likelihood that it gives the documents.

Letters: B sequences, T tokens, C language-model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from export.components.check_inputs import Case
from export.components.component import Component
from export.store.manifest import CaseResult, GreedyText, Likelihood
from export.validate.half_precision import Tensors, check_direction, greedy, relative_length, row_of
from export.validate.parity import ParityError, Run
from models import MMInterleaved
from models.generation.documents import Segment
from models.generation.state import processor_of

LEAST_COSINE = 0.99
MOST_NORM_CHANGE = 0.05
MOST_PERPLEXITY_CHANGE = 0.01
LEAST_SEEN_COSINE = 0.98
"""Between the visual tokens of two images that count as alike; two images of the emoji world had 0.92."""


@torch.no_grad()
def check_quantized(llm: Component, run: Run, cases: Sequence[Case]) -> list[CaseResult]:
    """Compare a graph with PyTorch in float32.

    Args:
        llm: with its float32 module.
        run: the graph.
        cases: real inputs.

    Returns:
        Per case the error of each output, relative to its length as a vector.

    Raises:
        ParityError: a tolerance is exceeded; with component, case, output and figures.
    """
    results = []
    for case in cases:
        expected, found = llm.run(case.inputs), run(case.inputs)
        errors = {}
        for name, right in expected.items():
            where = f"{llm.name}, case {case.name!r}: output {name}"
            errors[name] = relative_length(found[name], right, where)
            check_direction(found[name], right, where, LEAST_COSINE, MOST_NORM_CHANGE)
        results.append(CaseResult(case.name, {n: list(t.shape) for n, t in case.inputs.items()}, errors))
    return results


@torch.no_grad()
def check_perplexity(llm: Component, run: Run, case: Case, input_ids: Tensor, silent: int) -> Likelihood:
    """Check that the graph predicts documents as well as PyTorch does.

    Args:
        llm: the language model.
        run: its graph.
        case: B whole documents, nothing cached.
        input_ids: [B, T] int64, their tokens.
        silent: the token in the places of images; it is not predicted.

    Raises:
        ParityError: the perplexities differ by more than `MOST_PERPLEXITY_CHANGE`.
    """
    own, right = (
        torch.cat(
            [log_likelihoods(llm, compute, row_of(llm, case, row), ids, silent) for row, ids in enumerate(input_ids)]
        )
        for compute in (run, llm.run)
    )
    found = Likelihood(len(own), *(math.exp(-float(logs.double().mean())) for logs in (own, right)))
    change = found.perplexity / found.pytorch_perplexity - 1
    if not abs(change) <= MOST_PERPLEXITY_CHANGE:
        raise ParityError(
            f"llm: the perplexity of {found.num_tokens} tokens is {found.perplexity:.3f}, and PyTorch's "
            f"{found.pytorch_perplexity:.3f}: a change of {change:+.1%} where {MOST_PERPLEXITY_CHANGE:.0%} is allowed."
        )
    return found


def log_likelihoods(llm: Component, run: Run, document: Tensors, ids: Tensor, silent: int) -> Tensor:
    """Of each token of a document that is not `silent`, after those before it; read as a runtime reads, first all at
    once into the cache, then token after token from there.

    Args:
        llm: the language model.
        run: it, or its graph.
        document: inputs of a call that reads all of it.
        ids: [T] or more int64, its tokens.
        silent: see `check_perplexity`.

    Returns:
        [tokens] float32.
    """
    length = document["inputs_embeds"].shape[1]
    read = run(document)
    past = {name: read[name.replace("past_", "new_")] for name in document if name.startswith("past_")}
    logs = []
    for place in range(length - 1):
        if ids[place + 1] == silent:
            continue
        one = torch.tensor([[place]])
        here = {
            name: tensor[:, place : place + 1]
            for name, tensor in document.items()
            if llm.inputs[name].shape[:2] == ("batch", "tokens")
        }
        call = {
            **document,
            **here,
            **past,
            "write_indices": one[0],
            "last_token_ids": torch.zeros_like(one),
        }
        logs.append(run(call)["logits"][0, 0].log_softmax(-1)[ids[place + 1]])
    return torch.stack(logs) if logs else torch.zeros(0)


@torch.no_grad()
def compare_seen(model: MMInterleaved, expected: Sequence[Segment], found: Sequence[Segment]) -> str | None:
    """How drawn images differ from PyTorch's in the model's visual tokens; their pixels differ as their context does.
    None: alike."""
    processor = processor_of(model)
    images = [[one for one in document if isinstance(one, Image.Image)] for document in (expected, found)]
    for number, pair in enumerate(zip(*images, strict=True)):
        pixels = torch.stack([processor.encode_image(image) for image in pair])
        tokens, _ = model.visual_tokenizer(pixels.to(model.device))
        right, own = tokens.double().flatten(1)
        cosine = float(F.cosine_similarity(own, right, dim=0))
        if not cosine >= LEAST_SEEN_COSINE:
            return (
                f"the visual tokens of image {number} have a cosine of {cosine:.3f} with those of the one that "
                f"PyTorch draws; at least {LEAST_SEEN_COSINE} is expected."
            )
    return None


@torch.no_grad()
def compare_greedy(
    llm: Component,
    run: Run,
    embed: Callable[[Tensor], Tensor],
    decode: Callable[[list[int]], str],
    case: Case,
    num_tokens: int,
) -> list[GreedyText]:
    """Continue each document with the graph and with PyTorch, each from its own tokens.

    Args:
        llm: the language model.
        run: its graph.
        embed: [B, T] ids -> [B, T, C].
        decode: ids -> text.
        case: B whole documents, nothing cached.
        num_tokens: how many.
    """
    found = []
    for row in range(len(case.inputs["inputs_embeds"])):
        inputs = row_of(llm, case, row)
        own, right = (greedy(llm, compute, embed, inputs, num_tokens)[0] for compute in (run, llm.run))
        num_equal = next((i for i, pair in enumerate(zip(own, right, strict=True)) if pair[0] != pair[1]), num_tokens)
        found.append(GreedyText(num_tokens, num_equal, decode(own), decode(right)))
    return found
