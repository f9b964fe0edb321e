"""What the eighth turn of a conversation costs: with what was read before kept, and with all of it read again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.model_sides import time_both
from bench.workloads import Scale
from models import MMInterleaved
from models.generation.documents import PromptSegment
from models.generation.generated import Event
from models.generation.stream import GenerationStream
from trainer.benchmarks.small_folders import scenes

TOY = Path(__file__).parents[1] / "trainer/weights/toy"


@pytest.fixture(scope="module")
def toy() -> MMInterleaved:
    return MMInterleaved.from_pretrained(TOY, device="cpu")


def until_the_first_text(open_stream: Callable[[], GenerationStream[Event]]) -> None:
    with open_stream() as stream:
        assert [type(event) for event in islice(stream, 1)] == [str]


def bench_the_eighth_turn(toy: MMInterleaved, benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """An image and six words a turn, answered with eight tokens: time to the first text. Target: half of the time, with
    the same answers and at least 85 % of the prompt's tokens kept."""
    num_turns = 2 if scale == "smoke" else 8
    options: dict[str, Any] = {"mode": "text", "max_new_tokens": 8}
    turns: list[list[PromptSegment]] = [
        [scene.image, f" the {scene.name} is on the left of"] for scene in scenes(num_turns)
    ]
    conversation = toy.open_conversation()
    for turn in turns:
        place = len(conversation)
        conversation.add(turn)
        document = conversation.segments
        answer = conversation.generate(**options)
        assert answer == toy.generate(document, **options)
    if scale != "smoke":
        assert answer.num_cached_tokens >= 0.85 * answer.num_prompt_tokens

    def kept() -> GenerationStream[Event]:
        conversation.rewind(place)
        conversation.add(turns[-1])
        return conversation.generate_stream(**options)

    time_both(
        benchmark,
        lambda: until_the_first_text(kept),
        lambda: until_the_first_text(lambda: toy.generate_stream(document, **options)),
        name="reading all again",
        rounds=1 if scale == "smoke" else 30,
        error=0.0,
        device="cpu",
    )
