"""`generate`, `generate_stream`, `open_conversation` and `score` as methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from models.generation.conversation import Conversation
from models.generation.documents import Document
from models.generation.generate import generate, generate_stream
from models.generation.generated import Event, Generated
from models.generation.scoring import Score, score
from models.generation.state import GenerativeModel
from models.generation.stream import GenerationStream


class GenerationMixin:
    """The functions of `models.generation` as methods of a `GenerativeModel`: PyTorch's, or an exported one."""

    @overload
    def generate(self: GenerativeModel, documents: Document, **options: Any) -> Generated: ...

    @overload
    def generate(self: GenerativeModel, documents: Sequence[Document], **options: Any) -> list[Generated]: ...

    def generate(
        self: GenerativeModel, documents: Document | Sequence[Document], **options: Any
    ) -> Generated | list[Generated]:
        """Continue interleaved text and images; see `models.generation.generate.generate`."""
        return generate(self, documents, **options)

    @overload
    def generate_stream(self: GenerativeModel, documents: Document, **options: Any) -> GenerationStream[Event]: ...

    @overload
    def generate_stream(
        self: GenerativeModel, documents: Sequence[Document], **options: Any
    ) -> GenerationStream[tuple[int, Event]]: ...

    def generate_stream(
        self: GenerativeModel, documents: Document | Sequence[Document], **options: Any
    ) -> GenerationStream[Event] | GenerationStream[tuple[int, Event]]:
        """The same, as it happens; see `models.generation.generate.generate_stream`."""
        return generate_stream(self, documents, **options)

    def open_conversation(self: GenerativeModel, document: Document = ()) -> Conversation:
        """A document that is continued again and again, and read once; see `models.generation.conversation`."""
        return Conversation(self, document)

    def score(self: GenerativeModel, document: Document, candidates: Sequence[str], **options: Any) -> list[Score]:
        """Rank texts as continuations of a document; see `models.generation.scoring.score`."""
        return score(self, document, candidates, **options)
