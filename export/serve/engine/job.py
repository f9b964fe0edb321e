"""A request while it is computed: what is read already, what comes next, how long each part took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from export.serve.engine.content import Item, items_of, split_pieces
from export.serve.engine.events import Completed, LastEvent, Scored, Timings
from export.serve.engine.handle import Handle
from export.serve.engine.interface import GenerationRequest, Request, ScoreRequest
from models.generation.continuation import Continuation
from models.generation.documents import pieces_of, prompt_of
from models.generation.generate import generate_stream
from models.generation.generated import Event, Finished
from models.generation.options import GenerationOptions
from models.generation.recorded_queries import RecordedQueries
from models.generation.scoring import Score, score_stream
from models.generation.state import GenerationState, GenerativeModel, Piece
from models.generation.stream import GenerationStream
from models.processor import MMInterleavedProcessor

CANDIDATES_OF_A_STEP = 8
"""Of a score, between two rounds of the other requests."""

Phase = Literal["queued", "reading", "writing", "drawing"]


@dataclass(eq=False)
class Job:
    """A request in the engine."""

    request: Request
    handle: Handle
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    seconds: dict[Phase, float] = field(default_factory=dict)
    phase: Phase = "queued"
    since: float = field(default_factory=time.monotonic)
    """When the phase began."""

    num_bytes: int = 0
    """As it was forecast."""

    @property
    def client(self) -> str:
        """Who asked."""
        return self.request.asker.client

    def enter(self, phase: Phase) -> None:
        """From now on, time counts for this."""
        now = time.monotonic()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now

    @property
    def timings(self) -> Timings:
        """Up to now."""
        self.enter(self.phase)
        return Timings(*(self.seconds.get(phase, 0.0) for phase in ("queued", "reading", "writing", "drawing")))

    def end(self, event: LastEvent) -> None:
        """Tell the last event."""
        self.handle.put(event)


@dataclass(eq=False)
class AloneJob(Job):
    """A search with beams, or a score: in a state of its own, a step at a time."""

    stream: GenerationStream[Any] | None = None

    def step(self, model: GenerativeModel) -> LastEvent | None:
        """Compute the next step."""
        self.enter("writing")
        if self.stream is None:
            self.stream = self._begin(model)
        event = self.stream.step()
        if isinstance(event, list):
            return Scored(event, self.timings)
        if isinstance(event, Finished):
            num_images = sum(not isinstance(segment, str) for segment in self.request.document[event.num_cut :])
            return Completed(event, num_images, 0, self.timings)
        if event is not None:
            self.handle.put(event)
        return None

    def _begin(self, model: GenerativeModel) -> GenerationStream[Event] | GenerationStream[list[Score]]:
        if isinstance(self.request, ScoreRequest):
            return score_stream(
                model,
                self.request.document,
                self.request.candidates,
                rank_by=self.request.rank_by,
                candidates_at_a_time=CANDIDATES_OF_A_STEP,
            )
        options = {one.name: getattr(self.request.options, one.name) for one in fields(GenerationOptions)}
        return generate_stream(model, self.request.document, **options)

    def end(self, event: LastEvent) -> None:
        """Tell the last event, and let go of the stream."""
        super().end(event)
        if self.stream is not None:
            self.stream.close()


@dataclass(eq=False)
class DocumentJob(Job):
    """A document that is continued, alone or in a batch."""

    continuation: Continuation = field(init=False)
    prompt: list[Item] = field(default_factory=list)
    num_cut: int = 0
    num_cached: int = 0
    num_prompt_images: int = 0
    pending: list[Piece] = field(default_factory=list)
    """What is to be read before the document goes on."""

    items: list[Item] = field(default_factory=list)
    """What its state has read."""

    state: GenerationState | None = None
    """Of one row; None while the document is in a batch, and before it begins."""

    recorded: dict[int, RecordedQueries] = field(default_factory=dict)
    """Of the image that is being drawn, by denoising step."""

    refusal: Exception | None = None
    """Why its document cannot be read."""

    @property
    def options(self) -> GenerationOptions:
        """Of the request."""
        assert isinstance(self.request, GenerationRequest), "a score is a job of another kind"
        return self.request.options

    def prepare(self, processor: MMInterleavedProcessor, empty: GenerationState) -> None:
        """Turn the document into what the model reads; if it cannot be read or is too long, `refusal` tells why.

        Args:
            processor: of the model.
            empty: a state that has read nothing and reads nothing here: it knows how much fits.
        """
        try:
            self._prepare(processor, empty)
        except Exception as error:  # of this document alone: its last event, when its turn comes
            self.refusal = error

    def _prepare(self, processor: MMInterleavedProcessor, empty: GenerationState) -> None:
        assert isinstance(self.request, GenerationRequest), "a score is a job of another kind"
        document, options, config = self.request.document, self.options, empty.config
        segments = [pieces_of(segment, processor, config) for segment in document]
        self.pending, self.num_cut = prompt_of(segments, options, empty, 0)
        empty.check_room([self.pending])
        kept = document[self.num_cut :]
        self.num_prompt_images = sum(not isinstance(segment, str) for segment in kept)
        self.prompt = items_of(self.pending, config.visual_tokenizer.num_visual_tokens)
        (seed,) = options.seeds(1)
        self.continuation = Continuation(options, processor, config, seed, kept)

    def begin(self, model: GenerativeModel, cached: tuple[GenerationState, int] | None) -> None:
        """Begin with an empty state, or with one that has read the first tokens already."""
        self.state, self.num_cached = cached or (model.begin_generation(1), 0)
        if self.options.sampling_locations:
            self.state.record_sampling()
        num_visual = model.config.visual_tokenizer.num_visual_tokens
        read, self.pending = split_pieces(self.pending, self.num_cached, num_visual)
        self.items = items_of(read, num_visual)

    @torch.no_grad()
    def read(self, num_tokens: int, num_visual_tokens: int) -> int:
        """Read up to so many tokens, or one image, of what is pending.

        Returns:
            The number of tokens.
        """
        assert self.state is not None, "it is in no batch"
        first, rest = split_pieces(self.pending, num_tokens, num_visual_tokens)
        if not first:
            first, rest = self.pending[:1], self.pending[1:]
        self.state.read([first])
        read = items_of(first, num_visual_tokens)
        self.items += read
        self.pending = rest
        return len(read)

    def completed(self) -> Completed:
        """The last event of a document that has ended."""
        finished = self.continuation.finished(self.num_cut, len(self.prompt), self.num_cached)
        return Completed(finished, self.num_prompt_images, self.continuation.num_images, self.timings)


def job_of(request: Request, handle: Handle) -> Job:
    """The job of the kind that a request needs."""
    if isinstance(request, ScoreRequest) or request.options.num_beams > 1:
        return AloneJob(request, handle)
    return DocumentJob(request, handle)


def clients(jobs: Sequence[Job]) -> list[str]:
    """Of each job."""
    return [job.client for job in jobs]
