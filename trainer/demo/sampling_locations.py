"""The sampling locations of the language model's MMFS layers in an image.

Letters: H heads, L levels, P points, T tokens, C language-model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmfs import MMFS
from models import MMInterleaved
from models.generation.documents import pieces_of
from models.generation.torch_state import TorchGenerationState
from models.language_model import LanguageSynchronizer
from trainer.data.document import Document, Image
from trainer.demo.content import SampledImage
from trainer.evaluation.answers import to_model
from trainer.evaluation.evaluator import Evaluation

NUM_SAMPLED = 6


def sampled_images(model: MMInterleaved, evaluation: Evaluation) -> Iterator[SampledImage]:
    """Where the model samples to answer the first questions of the reading task; nothing without MMFS."""
    if len(model.language_model.synchronizers):
        for one in evaluation.tasks["read"].answered[:NUM_SAMPLED]:
            yield sampled_image(model, one.document, str(one.answer))


@torch.no_grad()
def sampled_image(model: MMInterleaved, document: Document, answer: str) -> SampledImage:
    """The sampling points with which the model reads the last token of a question about one image.

    Args:
        model: with MMFS in its language model.
        document: its prompt is one image and one question.
        answer: what the model writes, to stand beside the question.

    Raises:
        ValueError: the model has no MMFS layers or no processor, or the prompt is something else.
    """
    prompt = document.segments[: document.prompt]
    if len(prompt) != 2 or not isinstance(prompt[0], Image) or isinstance(prompt[1], Image):
        raise ValueError(f"The prompt of {document.key} has {len(prompt)} segments; expected an image and a question.")
    layers = [layer for layer in model.language_model.modules() if isinstance(layer, MMFS)]
    if not layers:
        raise ValueError("This language model has no MMFS layers, so it samples no image. Load one with MMFS.")
    if (processor := model.processor) is None:
        raise ValueError("The model has no processor. Expected one, to read the question with.")
    queries: dict[MMFS, Tensor] = {}

    def remember(layer: MMFS, arguments: tuple[Any, ...]) -> None:
        queries[layer] = arguments[0][0, -1]  # [C], of the last token read

    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        reading = TorchGenerationState(model)  # a layer with hooks is not folded
        segments = to_model(prompt, model.config.image_size[0])
        reading.read([[piece for segment in segments for piece in pieces_of(segment, processor, model.config)]])
    finally:
        for hook in hooks:
            hook.remove()
    points: list[tuple[float, float, float]] = []
    for layer, query in queries.items():
        location, weight = sampling_points(layer, query)
        points += [(x, y, w) for (x, y), w in zip(location.tolist(), weight.tolist(), strict=True)]
    return SampledImage(prompt[0].pixels, prompt[1].text, answer, tuple(points))


def sampling_points(layer: MMFS, query: Tensor) -> tuple[Tensor, Tensor]:
    """Where one query samples its newest image, and with how much attention (paper Eq. 4).

    Args:
        layer: an MMFS layer.
        query: [C], a text token that sees one image.

    Returns:
        [H*P, 2] places (x, y) in [0, 1], the same on all levels; [H*P] attention, summed over the levels. With the
        null slot the attention of a head is less than 1: the rest goes to the null slot.
    """
    mixed = layer.query_proj(query) + layer.age_embedding[0]
    offsets = layer.sampling_offsets(mixed)
    offsets = offsets.view(layer.num_heads, layer.num_points, 2) / offsets.new_tensor(layer.base)
    logits = layer.attention_weights(mixed).view(layer.num_heads, layer.num_levels * layer.num_points)  # [H, L*P]
    if layer.null_value is not None:
        logits = torch.cat([logits, logits.new_zeros(layer.num_heads, 1)], dim=1)
    weights = logits.softmax(1)[:, : layer.num_levels * layer.num_points]
    weights = weights.view(layer.num_heads, layer.num_levels, layer.num_points).sum(1)  # [H, P]
    locations = offsets.new_tensor(LanguageSynchronizer.CENTRE) + offsets
    return locations.flatten(0, 1), weights.flatten()
