"""Writing interleaved text and images (paper 3.2, inference).

Text is decoded token by token; when the language model writes `<BoI>`, the image decoder draws the next image, which
the model then reads like any other, so that what follows can attend to it. The loop is in
`models.generation.generation_loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch

from models.generation.continuation import Continuation
from models.generation.documents import Document, batch_of, pieces_of, prompt_of
from models.generation.generated import Event, Generated
from models.generation.generation_loop import ContinuedDocument, GenerationLoop, without_numbers
from models.generation.options import GenerationOptions
from models.generation.prompts import prompt_for
from models.generation.state import GenerativeModel, Piece, processor_of
from models.generation.stream import GenerationStream
from models.number_options import whole_number
from models.torch_defaults import usual_torch_defaults


@overload
def generate(model: GenerativeModel, documents: Document, *, task: str | None = ..., **options: Any) -> Generated: ...


@overload
def generate(
    model: GenerativeModel, documents: Sequence[Document], *, task: str | None = ..., **options: Any
) -> list[Generated]: ...


@torch.no_grad()
@usual_torch_defaults()
def generate(
    model: GenerativeModel, documents: Document | Sequence[Document], *, task: str | None = None, **options: Any
) -> Generated | list[Generated]:
    """Continue documents of text and images.

    The result of a document does not depend on the others in the batch, except for rounding.

    Args:
        model: an `MMInterleaved` or another `GenerativeModel`, with a processor.
        documents: the segments of one document, text and images in reading order, any number of either, also none;
            or a list of such documents.
        task: a ready prompt to put each document into, and what kind of answer is wanted; one of
            `models.generation.prompts.PROMPTS`.
        options: the fields of `models.generation.options.GenerationOptions`.

    Returns:
        The new segments of the document, or of each. With `num_return_sequences` above 1, a list: all continuations of
        the first document, then those of the next.

    Raises:
        TypeError: an option of another name.
        ValueError: an argument outside its range, or a document longer than the language model reads.
    """
    batch, batched = batch_of(documents)
    loop, prompts = _begin(model, batch, task, options)
    results = [Generated(prompt) for prompt in prompts]
    for event in loop.events():
        if event is not None:
            results[event[0]].add(event[1])
    return results if batched or loop.options.num_return_sequences > 1 else results[0]


@overload
def generate_stream(
    model: GenerativeModel,
    documents: Document,
    *,
    task: str | None = ...,
    preview_every: int = ...,
    **options: Any,
) -> GenerationStream[Event]: ...


@overload
def generate_stream(
    model: GenerativeModel,
    documents: Sequence[Document],
    *,
    task: str | None = ...,
    preview_every: int = ...,
    **options: Any,
) -> GenerationStream[tuple[int, Event]]: ...


@usual_torch_defaults()
def generate_stream(
    model: GenerativeModel,
    documents: Document | Sequence[Document],
    *,
    task: str | None = None,
    preview_every: int = 0,
    **options: Any,
) -> GenerationStream[Event] | GenerationStream[tuple[int, Event]]:
    """The same, as it happens: text as soon as it is certain, each denoising step, each image when it is drawn.

    Args:
        model: as for `generate`, like the arguments that are not named here.
        documents: one, or a list.
        task: a ready prompt.
        preview_every: 0, or the number of denoising steps between two previews of an image; decoding costs time.
        options: the fields of `GenerationOptions`.

    Returns:
        An iterator over text and images, `Progress` after every denoising step, a `Preview` after every
        `preview_every`-th, and `Finished` at the end of the document; for a list of documents, over (number of the
        document, one of these), and with `num_return_sequences` above 1, over (number of the continuation, one of
        these). Leaving it, or its `close` from any thread, stops the work within one step; see `GenerationStream`.

    Raises:
        ValueError: as for `generate`, at once; or `preview_every` is less than 0.
    """
    preview_every = whole_number("preview_every", preview_every, least=0)
    batch, batched = batch_of(documents)
    loop, _ = _begin(model, batch, task, options)
    if batched or loop.options.num_return_sequences > 1:
        return GenerationStream(loop.events(preview_every))
    of_one: GenerationStream[Event] = GenerationStream(without_numbers(loop.events(preview_every)))
    return of_one


def _begin(
    model: GenerativeModel, documents: Sequence[Document], task: str | None, given: dict[str, Any]
) -> tuple[GenerationLoop, list[Document]]:
    """The loop that continues some documents, and what each of them begins with."""
    if task is not None:
        prompt = prompt_for(task)
        documents = [prompt.fill(document) for document in documents]
        given = {"mode": prompt.mode, **given}
    options, processor = GenerationOptions.of(given), processor_of(model)
    seeds = options.seeds(len(documents))
    documents = [document for document in documents for _ in range(options.num_return_sequences)]
    state = model.begin_generation(len(documents))
    continued = []
    read: dict[int, list[Piece]] = {}  # an image that stands in several documents is read once
    for number, (document, seed) in enumerate(zip(documents, seeds, strict=True)):
        segments = []
        for segment in document:
            if isinstance(segment, str) or id(segment) not in read:
                read[id(segment)] = pieces_of(segment, processor, model.config)
            segments.append(read[id(segment)])
        pieces, num_cut = prompt_of(segments, options, state, number)
        continuation = Continuation(options, processor, model.config, seed, document[num_cut:])
        continued.append(ContinuedDocument(continuation, pieces, num_cut))
    return GenerationLoop(processor, options, state, continued), documents
