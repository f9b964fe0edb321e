"""Writing interleaved text and images (paper 3.2, inference).

Text is decoded token by token; when the language model says `<BoI>` the image decoder draws the next image, which the
model then reads like any other, so that what follows can look at it.
Letters: T new tokens, K tokens so far, C language-model width, N images so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved
    from models.processor import MMInterleavedProcessor

Segment = str | Image.Image
"""What is written: text or a picture."""

PromptSegment = str | Image.Image | Tensor | np.ndarray
"""What is read: also float tensors [3, H, W] in [0, 1] and uint8 arrays [H, W, 3]."""

Mode = Literal["auto", "text", "image"]


@dataclass
class Reading:
    """Everything the model has read and written so far, so that nothing is computed twice."""

    model: MMInterleaved
    cache: DynamicCache = field(default_factory=DynamicCache)
    hidden: list[Tensor] = field(default_factory=list)  # [1, T, C] each
    features: list[Tensor] = field(default_factory=list)  # [1, S, F] each
    values: list[Tensor] = field(default_factory=list)  # per LM synchronizer [N, S', H, D]
    drawing_values: list[Tensor] = field(default_factory=list)  # per U-Net synchronizer [N, S, H, D]
    num_drawable: int = 0  # images that drawing_values already holds
    length: int = 0  # tokens read
    logits: Tensor | None = None  # [vocabulary], for the next token

    def __post_init__(self) -> None:
        num_pixels = sum(h * w for h, w in self.model.visual_tokenizer.spatial_shapes)
        empty = self.model.begin_of_image.new_zeros(0, num_pixels, self.model.config.vision.clip["hidden_size"])
        self.values = self.model.language_model.project_values(empty)
        self.drawing_values = self.model.image_decoder.unet.project_values(empty)

    @property
    def num_images(self) -> int:
        """Images read or drawn so far."""
        return len(self.features)

    def read_tokens(self, ids: list[int]) -> None:
        """Append text tokens (or `<BoI>`)."""
        input_ids = torch.tensor([ids], device=self.model.device)
        no_image = input_ids.new_zeros(0, 2)
        visual_tokens = self.model.begin_of_image.new_zeros(0, 0, len(self.model.begin_of_image))
        self._read(self.model.embed(input_ids, visual_tokens, no_image))

    def read_image(self, pixels: Tensor) -> None:
        """Append a picture [3, H, W] whose `<BoI>` has been read."""
        visual_tokens, features = self.model.visual_tokenizer(pixels.to(self.model.device).unsqueeze(0))
        self.features.append(features)
        new = self.model.language_model.project_values(features)
        self.values = [torch.cat(pair) for pair in zip(self.values, new, strict=True)]
        self._read(visual_tokens)

    def _read(self, embeddings: Tensor) -> None:
        num_new = embeddings.shape[1]
        limit = self.model.config.language_model.transformer.get("max_position_embeddings")
        if limit is not None and self.length + num_new > limit:
            raise ValueError(
                f"The sequence has {self.length + num_new} tokens; the language model reads {limit}. "
                "Give it fewer segments, or lower max_new_tokens and max_images."
            )
        position_ids = torch.arange(self.length, self.length + num_new, device=embeddings.device)
        mask = torch.arange(self.length + num_new, device=embeddings.device) <= position_ids.unsqueeze(1)
        hidden = self.model.language_model(
            embeddings,
            position_ids=position_ids.unsqueeze(0),
            mask=mask[None, None],
            values=self.values,
            visible=position_ids.new_tensor([0, self.num_images]).expand(1, num_new, 2),
            cache=self.cache,
        )
        self.hidden.append(hidden)
        self.length += num_new
        self.logits = self.model.language_model.logits(hidden[0, -1]).float()

    def draw(self, *, seed: int, num_steps: int, guidance_scale: float) -> Tensor:
        """The image that the context asks for, [3, h, w] in [0, 1]; its `<BoI>` has been read, itself it has not."""
        decoder = self.model.image_decoder
        context = torch.cat(self.hidden, dim=1).flip(1)  # nearest first
        exists = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        if self.num_drawable < self.num_images:
            new = decoder.unet.project_values(torch.cat(self.features[self.num_drawable :]))
            self.drawing_values = [torch.cat(pair) for pair in zip(self.drawing_values, new, strict=True)]
            self.num_drawable = self.num_images
        first = 0 if decoder.config.context_images == "all" else max(self.num_images - 1, 0)
        return decoder.sample(
            decoder.condition(context, exists),
            values=self.drawing_values,
            visible=torch.tensor([[first, self.num_images]], device=context.device),
            seeds=[seed],
            num_steps=num_steps,
            guidance_scale=guidance_scale,
        )[0]


@torch.no_grad()
def generate_stream(
    model: MMInterleaved,
    segments: Sequence[PromptSegment],
    *,
    mode: Mode = "auto",
    max_new_tokens: int = 64,
    max_images: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    num_steps: int = 30,
    guidance_scale: float = 3.5,
) -> Iterator[Segment]:
    """Continue a document piece by piece; arguments and errors as for `generate`."""
    processor = _processor_of(model)
    _check(segments, mode, max_new_tokens, max_images, temperature, top_p, num_steps)
    config = model.config
    reading = Reading(model)
    reading.read_tokens([config.bos_token_id])
    for segment in segments:
        if isinstance(segment, str):
            if ids := processor.encode_text(segment):
                reading.read_tokens(ids)
        else:
            reading.read_tokens([config.begin_of_image_id])
            reading.read_image(processor.encode_image(segment))

    dice = torch.Generator().manual_seed(seed)
    never = [config.pad_token_id, config.bos_token_id, config.image_token_id]
    written = _TextWriter(processor)
    num_images = 0
    for _ in range(max_new_tokens):
        may_draw = mode != "text" and num_images < max_images
        if mode == "image":
            token = config.begin_of_image_id
        else:
            forbidden = never if may_draw else [*never, config.begin_of_image_id]
            token = _choose(reading.logits, forbidden, temperature, top_p, dice)
        if token == config.eos_token_id:
            break
        reading.read_tokens([token])
        if token != config.begin_of_image_id:
            if piece := written.add(token):
                yield piece
            continue
        if piece := written.flush():
            yield piece
        pixels = reading.draw(seed=seed + num_images, num_steps=num_steps, guidance_scale=guidance_scale)
        num_images += 1
        image = processor.decode_image(pixels)
        yield image
        if mode == "image" and num_images == max_images:
            return
        reading.read_image(processor.encode_image(image))
    if piece := written.flush():
        yield piece


def generate(model: MMInterleaved, segments: Sequence[PromptSegment], **options: Any) -> list[Segment]:
    """Continue a document of text and pictures.

    Args:
        model: with a processor.
        segments: text and pictures in reading order; any number of either, also none.
        mode: "auto" writes text and, where the model says `<BoI>`, images; "text" never draws; "image" draws
            `max_images` images right away.
        max_new_tokens: tokens written at most; an image counts as one.
        max_images: images drawn at most.
        temperature: 0 takes the likeliest token; above, samples.
        top_p: when sampling, only from the likeliest tokens that together hold this probability.
        seed: of the sampling and of the images; equal seeds give equal results.
        num_steps: denoising steps an image.
        guidance_scale: strength of classifier-free guidance; 1 is none.

    Returns:
        The new segments only, in order; adjacent text is one string.

    Raises:
        ValueError: an argument outside its range, or a sequence longer than the language model reads.
    """
    result: list[Segment] = []
    for piece in generate_stream(model, segments, **options):
        previous = result[-1] if result else None
        if isinstance(piece, str) and isinstance(previous, str):
            result[-1] = previous + piece
        else:
            result.append(piece)
    return result


class _TextWriter:
    """Token ids to text pieces; a character whose bytes are spread over tokens is held back until it is whole."""

    def __init__(self, processor: MMInterleavedProcessor) -> None:
        self.processor = processor
        self.ids: list[int] = []
        self.shown = 0

    def add(self, token: int) -> str:
        self.ids.append(token)
        text = self.processor.decode_text(self.ids)
        if text.endswith("\ufffd"):
            return ""
        piece, self.shown = text[self.shown :], len(text)
        return piece

    def flush(self) -> str:
        piece = self.processor.decode_text(self.ids)[self.shown :]
        self.ids, self.shown = [], 0
        return piece


def _choose(
    logits: Tensor | None, forbidden: list[int], temperature: float, top_p: float, dice: torch.Generator
) -> int:
    assert logits is not None, "a document starts with <s>"
    logits = logits.cpu().index_fill(0, torch.tensor(forbidden), -torch.inf)
    if temperature == 0:
        return int(logits.argmax())
    probabilities, order = (logits / temperature).softmax(-1).sort(descending=True)
    inside = probabilities.cumsum(-1) - probabilities < top_p  # the likeliest token is always inside
    return int(order[torch.multinomial(probabilities * inside, 1, generator=dice)])


def _processor_of(model: MMInterleaved) -> MMInterleavedProcessor:
    if model.processor is None:
        raise ValueError(
            "This model has no processor, so it can't read text. Load it with MMInterleaved.from_pretrained from a "
            "directory with tokenizer.json, or set model.processor."
        )
    return model.processor


def _check(
    segments: Sequence[PromptSegment],
    mode: str,
    max_new_tokens: int,
    max_images: int,
    temperature: float,
    top_p: float,
    num_steps: int,
) -> None:
    if isinstance(segments, str | Image.Image | Tensor):
        raise ValueError(f"segments is one {type(segments).__name__}; expected a list of texts and images: [it].")
    for i, segment in enumerate(segments):
        if not isinstance(segment, str | Image.Image | Tensor | np.ndarray):
            raise ValueError(
                f"segments[{i}] is a {type(segment).__name__}; expected str, PIL image, float tensor [3, H, W] or "
                "uint8 array [H, W, 3]."
            )
    if mode not in ("auto", "text", "image"):
        raise ValueError(f"mode is {mode!r}; expected 'auto', 'text' or 'image'.")
    for name, value, least in (
        ("max_new_tokens", max_new_tokens, 0),
        ("max_images", max_images, 0),
        ("num_steps", num_steps, 1),
        ("temperature", temperature, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; expected a probability in (0, 1].")
    if mode == "image" and max_images == 0:
        raise ValueError("mode is 'image' but max_images is 0; allow at least one image.")
