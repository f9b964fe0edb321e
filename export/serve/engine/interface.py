"""The interface between the server's HTTP side and whatever computes the answers.

```
handle = engine.submit(GenerationRequest(document, GenerationOptions(seed=7)))   # from any thread; may raise QueueFull
async for event in handle:                                                       # in an asyncio loop
    ...   # str, Progress, Preview, PIL image, and at last one of Completed, Scored, Failed, Cancelled
handle.cancel("client")                                                          # from any thread, at any time
```

The model is touched by the engine's own thread alone. What an engine promises:

* A request's events come in the order of its document. Exactly one of `events.LastEvent` ends them.
* A cancelled request stops within one step (a token, a denoising step, or reading the prompt), also while it waits,
  reads or draws. Others go on.
* An exception while a request is computed is its `Failed`; the engine and the other requests live on.
* It asks `Handle.is_full` before it works for a request: who does not read is paused, and so never needs more memory
  than the buffer of `Handle`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import uuid4

from export.serve.engine.handle import Handle
from models.generation.documents import Document
from models.generation.options import GenerationOptions


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who sent a request, and what may be shared with others."""

    client: str = ""
    """The name of the API key, or the address: no client holds all places at once."""

    cache_scope: str = ""
    """What has been read is used again only for requests of the same scope: the time that an answer takes tells what
    others have sent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """One document to be continued once."""

    document: Document
    """Texts, one segment for each part of the request, and RGB images, with the words of a task or a template around
    them. The segments are what caching goes by."""

    options: GenerationOptions
    """With one seed and `num_return_sequences` 1: several continuations are several requests."""

    preview_every: int = 0
    asker: Asker = field(default_factory=Asker)
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreRequest:
    """Texts to be ranked as continuations of a document."""

    document: Document
    candidates: Sequence[str]
    rank_by: Literal["sum", "mean"] = "sum"
    asker: Asker = field(default_factory=Asker)
    id: str = field(default_factory=lambda: uuid4().hex)


Request = GenerationRequest | ScoreRequest


STOPPING = "The server is stopping. Ask another one, or this one after it has started again."


class Overloaded(Exception):
    """There is more work than places. The message says what to do.

    Args:
        message: a sentence.
        retry_after: seconds after which a place should be free.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Overloaded):
    """The request was not taken."""


class NeverFits(ValueError):
    """The request needs more memory than there is for all."""


class QueuedTooLong(Overloaded):
    """The request waited longer than `EngineLimits.queue_timeout`."""


class EngineStopped(Exception):
    """The server is stopping and takes no more requests."""


@dataclass(frozen=True)
class EngineStats:
    """What an engine is doing at this moment."""

    num_running: int
    num_waiting: int
    num_writing: int = 0
    """Of those that run: documents that write, in one batch if there is room."""

    num_drawing: int = 0
    """Images that are being drawn."""

    num_conversations: int = 0
    """Documents that have been read and wait for their next turn."""

    conversation_bytes: int = 0
    """What they take."""


class Engine(ABC):
    """Answers requests with one model."""

    @abstractmethod
    def submit(self, request: Request) -> Handle:
        """Take a request. It returns when the document has become tokens, which takes long for a long text: an asyncio
        loop calls it in a thread.

        Raises:
            QueueFull: too many wait already, or its turn would come too late.
            NeverFits: it needs more memory than there is.
            EngineStopped: `close` was called.
        """

    @abstractmethod
    def stats(self) -> EngineStats:
        """May be called from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Cancel everything with reason "stopping" and end the engine's thread. Returns when it has ended."""
