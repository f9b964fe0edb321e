"""`generate`, `generate_stream` and `score` as methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from models.generation.documents import Document, Segment
from models.generation.generate import generate, generate_stream
from models.generation.generated import Generated, Preview
from models.generation.scoring import Score, score
from models.generation.state import GenerativeModel


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

    def generate_stream(
        self: GenerativeModel, documents: Document | Sequence[Document], **options: Any
    ) -> Iterator[Segment | Preview | tuple[int, Segment | Preview]]:
        """The same, piece by piece; see `models.generation.generate.generate_stream`."""
        return generate_stream(self, documents, **options)

    def score(self: GenerativeModel, document: Document, candidates: Sequence[str], **options: Any) -> list[Score]:
        """Rank texts as continuations of a document; see `models.generation.scoring.score`."""
        return score(self, document, candidates, **options)
