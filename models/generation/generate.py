"""Writing interleaved text and images (paper 3.2, inference).

Text is decoded token by token; when the language model writes `<BoI>`, the image decoder draws the next image, which
the model then reads like any other, so that what follows can attend to it. The documents of a batch are continued token
by token together; one that asks for an image waits until all ask for one or are done, so that images are drawn and read
together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, overload

import torch

from models.generation.beams import beam_search
from models.generation.continuation import Continuation
from models.generation.documents import Document, Segment, batch_of, cut_to_fit, pieces_of
from models.generation.generated import Event, Finished, Generated, Preview, Progress
from models.generation.options import GenerationOptions
from models.generation.prompts import prompt_for
from models.generation.recorded_queries import RecordedQueries
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
    generation = _Generation(model, batch, task, options)
    for event in generation.events():
        if event is not None:
            generation.results[event[0]].add(event[1])
    return generation.results if batched or generation.options.num_return_sequences > 1 else generation.results[0]


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
    generation = _Generation(model, batch, task, options)
    if batched or generation.options.num_return_sequences > 1:
        return GenerationStream(generation.events(preview_every))
    of_one: GenerationStream[Event] = GenerationStream(_without_numbers(generation.events(preview_every)))
    return of_one


def _without_numbers(events: Iterator[tuple[int, Event] | None]) -> Generator[Event | None, None, None]:
    """The events of one document."""
    for event in events:
        yield None if event is None else event[1]


class _Generation:
    """One call of `generate`."""

    def __init__(
        self, model: GenerativeModel, documents: Sequence[Document], task: str | None, given: dict[str, Any]
    ) -> None:
        if task is not None:
            prompt = prompt_for(task)
            documents = [prompt.fill(document) for document in documents]
            given = {"mode": prompt.mode, **given}
        self.model = model
        self.options = options = GenerationOptions.of(given)
        documents = [document for document in documents for _ in range(options.num_return_sequences)]
        self.processor = processor = processor_of(model)
        self.state = model.begin_generation(len(documents))
        if options.sampling_locations:
            self.state.record_sampling()
        seeds = options.seeds(len(documents) // options.num_return_sequences)
        self.continuations: list[Continuation] = []
        self.reported: set[int] = set()  # documents whose end the caller knows of
        self.results: list[Generated] = []
        self.prompts: list[list[Piece]] = []
        read: dict[int, list[Piece]] = {}  # an image that stands in several documents is read once
        for number, (document, seed) in enumerate(zip(documents, seeds, strict=True)):
            segments = []
            for segment in document:
                if isinstance(segment, str) or id(segment) not in read:
                    read[id(segment)] = pieces_of(segment, processor, model.config)
                segments.append(read[id(segment)])
            if options.overflow == "cut":
                num_new = 1 + options.most_new_places(model.config.visual_tokenizer.num_visual_tokens)
                segments = cut_to_fit(segments, self.state, num_new, number)
            self.prompts.append([[model.config.bos_token_id], *(piece for pieces in segments for piece in pieces)])
            self.results.append(Generated(document, num_cut=len(document) - len(segments)))
            kept = document[len(document) - len(segments) :]
            self.continuations.append(Continuation(options, processor, model.config, seed, kept))
        self.state.check_room(self.prompts)

    def events(self, preview_every: int = 0) -> Generator[tuple[int, Event] | None, None, None]:
        """What happens, each with the number of its document. None: a step is done and there is nothing to tell; so the
        caller, who may leave at any item, never waits longer than a step."""
        if not self.continuations:
            return
        self.state.read(self.prompts)
        yield None
        if self.options.num_beams > 1 and self.options.max_new_tokens:
            yield from self._search()
        yield from self._newly_finished()
        while self._drop_finished():
            turns: list[list[Piece]] = [[] for _ in self.state.documents]  # what each row reads next
            going = [
                (row, number)
                for row, number in enumerate(self.state.documents)
                if not self.continuations[number].finish_reason
            ]
            writing = [(row, number) for row, number in going if not self.continuations[number].wants_image]
            yield from self._write(writing, turns) if writing else self._draw(going, turns, preview_every)
            yield from self._read(turns)
            yield from self._newly_finished()
            yield None

    def _newly_finished(self) -> Iterator[tuple[int, Finished]]:
        """Of each document that has ended since the last time."""
        for number, one in enumerate(self.continuations):
            if one.finish_reason is not None and number not in self.reported:
                self.reported.add(number)
                num_prompt_tokens = self.state.num_tokens(self.prompts[number])
                yield number, one.finished(self.results[number].num_cut, num_prompt_tokens)

    def _search(self) -> Iterator[tuple[int, Segment] | None]:
        """The text that beam search finds for each document."""
        found = yield from beam_search(
            self.state, self.options, [one.sampler for one in self.continuations], self.processor
        )
        for number, (one, hypothesis) in enumerate(zip(self.continuations, found, strict=True)):
            one.finish_reason, one.num_tokens = hypothesis.finish_reason, len(hypothesis.ids)
            if one.sampling_locations is not None:
                one.sampling_locations.add_tokens(hypothesis.ids, hypothesis.queries)
            text = "".join(map(one.detokenizer.add, hypothesis.ids)) + one.detokenizer.flush()
            if text:
                yield number, text

    def _write(self, rows: list[tuple[int, int]], turns: list[list[Piece]]) -> Iterator[tuple[int, Segment]]:
        """One token for each of these (row, document number)."""
        assert self.state.logits is not None, "a document starts with <s>"
        logits = self.state.logits.cpu()
        for row, number in rows:
            text, turns[row] = self.continuations[number].write(logits[row], self.state.queries[row])
            if text:
                yield number, text

    def _draw(
        self, rows: list[tuple[int, int]], turns: list[list[Piece]], preview_every: int
    ) -> Iterator[tuple[int, Segment | Progress | Preview]]:
        """One image for each of these (row, document number)."""
        options, decode, num_steps = self.options, self.state.decode, self.options.num_inference_steps
        continuations = [self.continuations[number] for _, number in rows]
        seeds = [one.image_seed for one in continuations]
        recorded: list[dict[int, RecordedQueries]] = [{} for _ in rows]
        for step in self.state.draw([row for row, _ in rows], seeds, options.denoising):
            if step.done in options.recorded_steps and step.sampled is not None:
                for place, steps in enumerate(recorded):
                    steps[step.done] = RecordedQueries(step.sampled, place).alone()
            for (_, number), one in zip(rows, continuations, strict=True):
                yield number, Progress(one.num_images, step.done, num_steps)
            if preview_every and step.done % preview_every == 0 and step.done < num_steps:
                for (_, number), pixels in zip(rows, decode(step.estimate), strict=True):
                    yield number, Preview(self.processor.decode_image(pixels), step.done, num_steps)
        for (row, number), pixels, steps in zip(rows, decode(step.latents), recorded, strict=True):
            image = self.processor.decode_image(pixels)
            turns[row] = self.continuations[number].add_image(image, steps)
            yield number, image

    def _drop_finished(self) -> bool:
        """Whether any document goes on. Rows of finished ones are dropped once they are half of all."""
        going = [
            row for row, number in enumerate(self.state.documents) if self.continuations[number].finish_reason is None
        ]
        if going and 2 * len(going) <= len(self.state.documents):
            self.state.select(going)
        return bool(going)

    def _read(self, turns: list[list[Piece]]) -> Iterator[tuple[int, Segment]]:
        """Let each row read its new pieces; with overflow "cut", documents whose pieces do not fit end."""
        state = self.state
        if self.options.overflow == "cut":
            for row, number in enumerate(state.documents):
                if state.excess(row, state.num_tokens(turns[row])) > 0:
                    turns[row] = []
                    if text := self.continuations[number].end_for_length():
                        yield number, text
        if any(turns):
            state.read(turns)
