"""A document that is continued again and again, and read once: what a conversation is to this model."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import Tensor

from models.generation.continuation import Continuation
from models.generation.documents import (
    Document,
    PromptSegment,
    pieces_of,
    prompt_of,
    segments_of,
    whole_document,
)
from models.generation.generated import Event, Generated
from models.generation.generation_loop import ContinuedDocument, GenerationLoop, without_numbers
from models.generation.options import GenerationOptions
from models.generation.prompts import prompt_for
from models.generation.read_document import ReadDocument
from models.generation.state import GenerativeModel, Piece, processor_of
from models.generation.stream import GenerationStream
from models.number_options import whole_number
from models.torch_defaults import usual_torch_defaults


@dataclass(frozen=True, eq=False)
class _Part:
    """A segment of the document."""

    segment: PromptSegment
    pieces: list[Piece]
    is_written: bool
    """By the model."""


class Conversation:
    """A document of text and images that grows: segments are added, the model goes on, and what has been read is kept.

    `generate` gives what `model.generate` gives for the whole document (up to rounding), and reads only what is new:
    what was added, and what it wrote last. The document is its segments and nothing else, so a written text is read by
    the tokens that it is encoded as; where the model spelled it otherwise, or wrote a stop text that was left out, it
    is read once more.

    One thread at a time uses it, and one stream at a time writes; the model may serve others meanwhile. The model's
    weights do not change as long as it is used.

    Args:
        model: an `MMInterleaved` or another `GenerativeModel`, with a processor.
        document: what it begins with.

    Raises:
        ValueError: the document is not one list of texts and images.
    """

    def __init__(self, model: GenerativeModel, document: Document = ()) -> None:
        self.model = model
        self._parts: list[_Part] = []
        self._read = ReadDocument.begin(model)
        self._in_use = Lock()
        self.add(document)

    @property
    def segments(self) -> list[PromptSegment]:
        """The document: what was given and what was written, in order."""
        return [part.segment for part in self._parts]

    def __len__(self) -> int:
        """The number of segments."""
        return len(self._parts)

    @property
    def num_cached_tokens(self) -> int:
        """Places of the language model that have been read and are kept."""
        return self._read.num_tokens

    @property
    def num_bytes(self) -> int:
        """The memory that is taken: keys and values, hidden states, what MMFS samples, and the images themselves."""
        images = (piece for part in self._parts for piece in part.pieces if isinstance(piece, Tensor))
        return self._read.state.num_bytes + sum(image.nbytes for image in images)

    @usual_torch_defaults()
    def add(self, segments: Document) -> None:
        """Append texts and images to the document; they are read when the model goes on.

        Raises:
            ValueError: they are not a list of texts and images; nothing was added.
        """
        added = self._parts_of(segments_of(segments))
        with self._alone():
            self._parts = [*self._parts, *added]

    def generate(self, *, task: str | None = None, **options: Any) -> Generated:
        """Continue the document, and keep what is written as a part of it.

        Args:
            task: a ready prompt, for what was added since the model wrote last: the words of the task are put around
                these segments and stay in the document.
            options: the fields of `models.generation.options.GenerationOptions`.

        Returns:
            The new segments, with `num_cached_tokens` of the prompt's tokens that were not read again.

        Raises:
            TypeError: an option of another name.
            ValueError: as of `models.generation.generate.generate`.
            RuntimeError: another thread or a stream uses this conversation.
            Whatever it is, the document is as it was before.
        """
        before = self._parts
        with self.generate_stream(task=task, **options) as stream:
            result = Generated(self.segments)
            try:
                for event in stream:
                    result.add(event)
            except BaseException:
                stream.close()
                self._parts = before
                raise
        return result

    @usual_torch_defaults()
    def generate_stream(
        self, *, task: str | None = None, preview_every: int = 0, **options: Any
    ) -> GenerationStream[Event]:
        """The same, as it happens; see `models.generation.generate.generate_stream`.

        However the stream ends, by itself, closed or by an error, the document then holds what it yielded, text and
        images, and no more; with nothing yielded, it is as it was before. To have it as it was before, `rewind`.

        Raises:
            TypeError, ValueError, RuntimeError: as of `generate`, at once; the document is as it was before.
        """
        preview_every = whole_number("preview_every", preview_every, least=0)
        if not self._in_use.acquire(blocking=False):
            raise _in_use()
        before = self._parts
        try:
            loop = self._begin(task, options)
            written = self._write(loop, before, preview_every)
            next(written)  # from now on, its end lets others use the conversation, also if it is only dropped
        except BaseException:
            self._parts = before
            self._in_use.release()
            raise
        return GenerationStream(written)

    def _begin(self, task: str | None, given: dict[str, Any]) -> GenerationLoop:
        """Fill the task's prompt, check the options, and forget what is not part of the document."""
        model, processor, state = self.model, processor_of(self.model), self._read.state
        if task is not None:
            prompt = prompt_for(task)
            written = [number for number, part in enumerate(self._parts) if part.is_written]
            first = written[-1] + 1 if written else 0
            filled = prompt.fill([part.segment for part in self._parts[first:]])
            self._parts = [*self._parts[:first], *self._parts_of(filled)]
            given = {"mode": prompt.mode, **given}
        options = GenerationOptions.of(given)
        if options.num_return_sequences > 1:
            raise ValueError(
                f"num_return_sequences is {options.num_return_sequences}; a conversation goes on in one way. Make a "
                "fork() for each of the others."
            )
        [seed] = options.seeds(1)
        document, num_cut = prompt_of([part.pieces for part in self._parts], options, state, 0)
        new = self._read.go_to(document, needs_queries=options.sampling_locations)
        continuation = Continuation(options, processor, model.config, seed, self.segments[num_cut:])
        one = ContinuedDocument(continuation, new, num_cut, self._read.num_tokens)
        return GenerationLoop(processor, options, state, [one], keeps_state=True)

    def _write(
        self, loop: GenerationLoop, before: list[_Part], preview_every: int
    ) -> Generator[Event | None, None, None]:
        """What the loop does; in the end, what was yielded is a part of the document."""
        written = Generated(self.segments)
        failed = True
        try:
            yield None
            for event in without_numbers(loop.events(preview_every)):
                if event is not None:
                    written.add(event)
                yield event
            failed = False
        except GeneratorExit:
            failed = False  # between two steps
            raise
        finally:
            try:
                self._read.note(loop.documents[0].has_read)
                loop.state.stop_recording()
                if failed:
                    self._read.recover()
                asked, self._parts = self._parts, before
                if written:
                    with usual_torch_defaults():
                        self._parts = [*asked, *self._parts_of(written, is_written=True)]
            finally:
                self._in_use.release()

    def rewind(self, num_segments: int) -> None:
        """Go back to the first segments: to have the rest written anew, or to add something else.

        Args:
            num_segments: how many stay.

        Raises:
            ValueError: there are fewer.
        """
        num_segments = whole_number("num_segments", num_segments, least=0, most=len(self._parts))
        with self._alone():
            self._parts = self._parts[:num_segments]
            self._read.go_to(whole_document([part.pieces for part in self._parts], self.model.config))

    @usual_torch_defaults()
    def fork(self) -> Conversation:
        """Another conversation with the same document, and a copy of what has been read of it."""
        with self._alone():
            other = Conversation(self.model)
            other._parts = self._parts
            other._read = self._read.copied(self.model)
        return other

    def _parts_of(self, segments: Document, *, is_written: bool = False) -> list[_Part]:
        processor, config = processor_of(self.model), self.model.config
        return [_Part(segment, pieces_of(segment, processor, config), is_written) for segment in segments]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._in_use.acquire(blocking=False):
            raise _in_use()
        try:
            yield
        finally:
            self._in_use.release()


def _in_use() -> RuntimeError:
    return RuntimeError(
        "This conversation is in use: another thread works with it, or a stream of it has neither ended nor been "
        "closed. Wait, close() the stream, or work with a fork()."
    )
