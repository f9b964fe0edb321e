"""The loop behind `generate`: a token of each document, an image where one is asked for, until all are done.

The documents of a batch are continued token by token together; one that asks for an image waits until all ask for one
or are done, so that images are drawn and read together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from models.generation.beams import beam_search
from models.generation.continuation import Continuation
from models.generation.documents import Segment
from models.generation.generated import Event, Finished, Preview, Progress
from models.generation.options import GenerationOptions
from models.generation.recorded_queries import RecordedQueries
from models.generation.state import GenerationState, Piece
from models.processor import MMInterleavedProcessor


@dataclass
class ContinuedDocument:
    """One document of a batch: what is read of it, beside what is written."""

    continuation: Continuation
    prompt: list[Piece]
    """What is read before anything is written."""

    num_cut: int
    """See `Finished`, as for the next."""

    num_cached_tokens: int = 0
    has_read: list[Piece] = field(default_factory=list)
    """What its row has read so far, of the prompt and of what was written."""

    is_reported: bool = False
    """The caller knows that it is finished."""


class GenerationLoop:
    """Continues a batch of documents.

    Args:
        processor: of the model.
        options: what the caller asks for.
        state: with a row for each document.
        documents: what is continued.
        keeps_state: the state is used afterwards; else a beam search may use it up.
    """

    def __init__(
        self,
        processor: MMInterleavedProcessor,
        options: GenerationOptions,
        state: GenerationState,
        documents: Sequence[ContinuedDocument],
        *,
        keeps_state: bool = False,
    ) -> None:
        self.processor = processor
        self.options = options
        self.state = state
        self.documents = documents
        self.continuations = [document.continuation for document in documents]
        self.keeps_state = keeps_state
        state.check_room([document.prompt for document in documents])
        if options.sampling_locations:
            state.record_sampling()

    def events(self, preview_every: int = 0) -> Generator[tuple[int, Event] | None, None, None]:
        """What happens, each with the number of its document. None: a step is done and there is nothing to tell; so the
        caller, who may leave at any item, never waits longer than a step."""
        prompts = [document.prompt for document in self.documents]
        if any(prompts):
            self.state.read(prompts)
            for document in self.documents:
                document.has_read += document.prompt
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
        for number, document in enumerate(self.documents):
            if document.continuation.finish_reason is not None and not document.is_reported:
                document.is_reported = True
                num_cached = document.num_cached_tokens
                num_prompt_tokens = num_cached + self.state.num_tokens(document.prompt)
                yield number, document.continuation.finished(document.num_cut, num_prompt_tokens, num_cached)

    def _search(self) -> Iterator[tuple[int, Segment] | None]:
        """The text that beam search finds for each document."""
        state = self.state.copied(range(len(self.documents))) if self.keeps_state else self.state
        samplers = [one.sampler for one in self.continuations]
        found = yield from beam_search(state, self.options, samplers, self.processor)
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
            for row, number in enumerate(state.documents):
                self.documents[number].has_read += turns[row]


def without_numbers(events: Iterator[tuple[int, Event] | None]) -> Generator[Event | None, None, None]:
    """The events of one document."""
    for event in events:
        yield None if event is None else event[1]
