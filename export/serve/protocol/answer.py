"""What all endpoints say of an answer: its pieces, why it ended, how many tokens it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from export.serve.content.encoded import EncodedImage, EncodedPreview
from export.serve.engine.events import Completed, Timings
from models.generation.generated import Progress

AnswerEvent = str | Progress | EncodedPreview | EncodedImage | Completed
"""An engine's event with its image as a file."""

FINISH_REASONS = {
    "end": "stop",
    "stop": "stop",
    "max_new_images": "stop",
    "max_new_tokens": "length",
    "length": "length",
    "cancelled": "stop",
}
"""The library's word to OpenAI's."""


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer, of all its continuations together."""

    prompt_tokens: int
    prompt_image_tokens: int
    cached_tokens: int
    completion_tokens: int
    completion_image_tokens: int
    """Of them, those that stand for an image that was drawn: one each."""

    @classmethod
    def of(cls, completed: Sequence[Completed], num_visual_tokens: int) -> Usage:
        """Of continuations of one prompt, which counts once."""
        first = completed[0].finished
        return cls(
            prompt_tokens=first.num_prompt_tokens,
            prompt_image_tokens=completed[0].num_prompt_images * num_visual_tokens,
            cached_tokens=first.num_cached_tokens,
            completion_tokens=sum(one.finished.num_new_tokens for one in completed),
            completion_image_tokens=sum(one.num_new_images for one in completed),
        )

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    def of_chat(self) -> dict[str, Any]:
        """As chat completions have it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "image_tokens": self.prompt_image_tokens,
            },
            "completion_tokens_details": {"image_tokens": self.completion_image_tokens},
        }

    def of_responses(self) -> dict[str, Any]:
        """As responses have it."""
        return {
            "input_tokens": self.prompt_tokens,
            "output_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "input_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "cache_write_tokens": self.prompt_tokens - self.cached_tokens,
            },
            "output_tokens_details": {"reasoning_tokens": 0},
        }

    def of_images(self) -> dict[str, Any]:
        """As images have it."""
        return {
            "input_tokens": self.prompt_tokens,
            "output_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "input_tokens_details": {
                "image_tokens": self.prompt_image_tokens,
                "text_tokens": self.prompt_tokens - self.prompt_image_tokens,
            },
        }


def facts_of(completed: Completed, seed: int, ignored: Sequence[str] = ()) -> dict[str, Any]:
    """The object `mmfs` of an answer.

    Args:
        completed: the end of the continuation.
        seed: that it was made with.
        ignored: fields of the request that had no effect.
    """
    facts: dict[str, Any] = {
        "finish": completed.finished.finish_reason,
        "num_cut": completed.finished.num_cut,
        "seed": seed,
        "timings": milliseconds(completed.timings),
    }
    return facts | ({"ignored": list(ignored)} if ignored else {})


def milliseconds(timings: Timings) -> dict[str, float]:
    """The timings of an answer."""
    return {
        "queued_ms": round(1000 * timings.queued, 1),
        "read_ms": round(1000 * timings.reading, 1),
        "write_ms": round(1000 * timings.writing, 1),
        "draw_ms": round(1000 * timings.drawing, 1),
    }
