"""Writing interleaved text and images (paper 3.2, inference).

Text is decoded token by token; when the language model writes `<BoI>`, the image decoder draws the next image, which
the model then reads like any other, so that what follows can attend to it. The documents of a batch are continued token
by token together; one that asks for an image waits until all ask for one or are done, so that images are drawn and read
together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch

from models.generation.beams import beam_search
from models.generation.detokenizer import IncrementalDetokenizer
from models.generation.documents import Document, Segment, batch_of, cut_to_fit, pieces_of
from models.generation.generated import Event, Finished, FinishReason, Generated, Preview, Progress
from models.generation.options import GenerationOptions
from models.generation.prompts import prompt_for
from models.generation.recorded_queries import RecordedQueries
from models.generation.sampling_locations import SamplingLocations
from models.generation.state import GenerativeModel, Piece, processor_of
from models.generation.stream import GenerationStream
from models.generation.token_sampler import TokenSampler
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


@dataclass
class _Continuation:
    """What has been written of one document's continuation."""

    sampler: TokenSampler
    detokenizer: IncrementalDetokenizer
    seed: int
    written: list[int] = field(default_factory=list)  # text tokens
    num_tokens: int = 0
    num_images: int = 0
    wants_image: bool = False  # <BoI> is written, its image is not drawn yet
    finish_reason: FinishReason | None = None
    sampling_locations: SamplingLocations | None = None
    is_reported: bool = False  # the caller knows that it is finished


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
        self.continuations = [
            _Continuation(
                TokenSampler(options, model.config, seed), IncrementalDetokenizer(processor, options.stops), seed
            )
            for seed in options.seeds(len(documents) // options.num_return_sequences)
        ]
        self.results: list[Generated] = []
        self.prompts: list[list[Piece]] = []
        read: dict[int, list[Piece]] = {}  # an image that stands in several documents is read once
        for number, document in enumerate(documents):
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
            if options.sampling_locations:
                kept = document[len(document) - len(segments) :]
                self.continuations[number].sampling_locations = SamplingLocations(
                    model.config, processor, kept, options.stops
                )
        self.state.check_room(self.prompts)

    def events(self, preview_every: int = 0) -> Generator[tuple[int, Event] | None, None, None]:
        """What happens, each with the number of its document. None: a step is done and there is nothing to tell; so the
        caller, who may leave at any item, never waits longer than a step."""
        if not self.continuations:
            return
        self.state.read(self.prompts)
        yield None
        if self.options.max_new_tokens == 0:
            for one in self.continuations:
                one.finish_reason = "max_new_tokens"
        elif self.options.num_beams > 1:
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
            if one.finish_reason is not None and not one.is_reported:
                one.is_reported = True
                num_prompt_tokens = self.state.num_tokens(self.prompts[number])
                num_cut = self.results[number].num_cut
                yield (
                    number,
                    Finished(one.finish_reason, num_cut, num_prompt_tokens, one.num_tokens, 0, one.sampling_locations),
                )

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
        config, options = self.model.config, self.options
        assert self.state.logits is not None, "a document starts with <s>"
        logits = self.state.logits.cpu()
        for row, number in rows:
            one = self.continuations[number]
            may_draw = options.mode != "text" and one.num_images < options.max_new_images
            if options.mode == "image":
                token = config.begin_of_image_id
            else:
                token = one.sampler(logits[row], one.written, may_draw=may_draw)
            piece = ""
            if token == config.eos_token_id:
                one.finish_reason = "end"
            elif token == config.begin_of_image_id:
                one.num_tokens += 1
                one.wants_image = True
                piece = one.detokenizer.flush()
            else:
                one.num_tokens += 1
                one.written.append(token)
                piece = one.detokenizer.add(token)
                if one.detokenizer.is_stopped:
                    one.finish_reason = "stop"
                elif one.num_tokens == options.max_new_tokens:
                    one.finish_reason = "max_new_tokens"
            if one.sampling_locations is not None and token != config.eos_token_id:
                one.sampling_locations.add_tokens([token], [self.state.queries[row]])
            if one.finish_reason:
                piece += one.detokenizer.flush()
            else:
                turns[row] = [[token]]
            if piece:
                yield number, piece

    def _draw(
        self, rows: list[tuple[int, int]], turns: list[list[Piece]], preview_every: int
    ) -> Iterator[tuple[int, Segment | Progress | Preview]]:
        """One image for each of these (row, document number)."""
        options, decode, num_steps = self.options, self.state.decode, self.options.num_inference_steps
        continuations = [self.continuations[number] for _, number in rows]
        seeds = [one.seed + one.num_images for one in continuations]
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
            one = self.continuations[number]
            one.wants_image = False
            one.num_images += 1
            image = self.processor.decode_image(pixels)
            if one.sampling_locations is not None:
                one.sampling_locations.add_image(image, steps)
            yield number, image
            if options.mode == "image" and one.num_images == options.max_new_images:
                one.finish_reason = "max_new_images"
            elif one.num_tokens == options.max_new_tokens:
                one.finish_reason = "max_new_tokens"
            else:
                turns[row] = [self.processor.encode_image(image)]

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
                    self.continuations[number].finish_reason, turns[row] = "length", []
                    if piece := self.continuations[number].detokenizer.flush():
                        yield number, piece
        if any(turns):
            state.read(turns)
