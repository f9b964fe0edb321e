"""What the engine of `export.serve` gains: clients together against one alone, turns with their documents kept against
turns from the beginning, text beside an image that is drawn, cancelling, and memory after many conversations.

python -m bench.serving trainer/weights/toy

One thread. Every figure is a ratio of times of one run, the least of some repetitions; what is compared is checked to
be equal first.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench.measure import resident_bytes
from export.serve.engine.batching import BatchingEngine
from export.serve.engine.events import Completed, Event
from export.serve.engine.interface import GenerationRequest
from export.serve.engine.limits import MIB, EngineLimits
from models import MMInterleaved
from models.generation.documents import Document
from models.generation.options import GenerationOptions

NUM_CLIENTS = 8
NUM_PREVIEWS = 3


async def answer(engine: BatchingEngine, document: Document, **options: Any) -> tuple[list[Event], list[float]]:
    """All events of a request, and when each came, in seconds from its beginning.

    Args:
        engine: that answers.
        document: to be continued.
        options: as `generate`, and `preview_every`.
    """
    preview_every = options.pop("preview_every", 0)
    begin, events, times = time.perf_counter(), [], []
    request = GenerationRequest(document=document, options=GenerationOptions(**options), preview_every=preview_every)
    async for event in engine.submit(request):
        events.append(event)
        times.append(time.perf_counter() - begin)
    assert isinstance(events[-1], Completed), events[-1]
    return events, times


def seconds(*work: Coroutine[Any, Any, tuple[list[Event], list[float]]]) -> float:
    """Until all of it is answered."""

    async def together() -> float:
        begin = time.perf_counter()
        await asyncio.gather(*work)
        return time.perf_counter() - begin

    return asyncio.run(together())


def text_of(events: Sequence[Event]) -> str:
    return "".join(event for event in events if isinstance(event, str))


def together(engine: BatchingEngine, num_repetitions: int, name: str, **options: Any) -> tuple[float, float]:
    """Least seconds of one client alone, and of several with documents of their own."""
    alone, several = [], []
    for number in range(num_repetitions):
        documents = [[f"{name} {number} of client {client} and"] for client in range(NUM_CLIENTS + 1)]
        alone.append(seconds(answer(engine, documents[-1], **options)))
        several.append(seconds(*(answer(engine, document, **options) for document in documents[:-1])))
    return min(alone), min(several)


def turns(
    model: MMInterleaved, num_turns: int, num_repetitions: int, picture: Image.Image
) -> tuple[float, float, float]:
    """Of the last turn of a conversation with an image in each: least seconds to its first text with the document kept
    and without, and the share of its prompt that was kept."""
    kept, anew, share = [], [], 0.0
    options = {"mode": "text", "max_new_tokens": 6, "min_new_tokens": 6}
    for _ in range(num_repetitions):
        engines = [BatchingEngine(model, EngineLimits()), BatchingEngine(model, EngineLimits(cache_bytes=0))]
        document: list[Any] = []
        for turn in range(num_turns):
            document += [picture.rotate(90 * (turn % 4)), f" words of turn {turn}"]
            found = [asyncio.run(answer(engine, document, **options)) for engine in engines]
            assert text_of(found[0][0]) == text_of(found[1][0]), "kept or not, the same is written"
            document.append(text_of(found[0][0]))
        kept.append(found[0][1][0])
        anew.append(found[1][1][0])
        last = found[0][0][-1]
        assert isinstance(last, Completed)
        share = last.finished.num_cached_tokens / last.finished.num_prompt_tokens
        for engine in engines:
            engine.close()
    return min(kept), min(anew), share


def beside(engine: BatchingEngine, num_tokens: int, num_steps: int, num_repetitions: int) -> tuple[float, float]:
    """The speed of text beside an image against alone, and the time of the image against alone."""
    writing = {"mode": "text", "max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    drawing = {"mode": "image", "num_inference_steps": num_steps}
    text, both, image, image_beside = [], [], [], []
    for number in range(num_repetitions):
        text.append(seconds(answer(engine, [f"alone {number} it goes on"], **writing)))
        image.append(seconds(answer(engine, [f"an image {number}"], **drawing)))

        async def two(number: int = number) -> tuple[float, float]:
            drawn = asyncio.create_task(answer(engine, [f"beside {number}"], **drawing))
            written = asyncio.create_task(answer(engine, [f"and beside {number} it goes on"], **writing))
            return (await written)[1][-1], (await drawn)[1][-1]

        times = asyncio.run(two())
        both.append(times[0])
        image_beside.append(times[1])
    return min(text) / min(both), min(image_beside) / min(image)


def previewing(engine: BatchingEngine, num_steps: int, num_previews: int, num_repetitions: int) -> float:
    """The time of an image with so many previews against without; each document is asked for twice, so that both find
    it read, and the two take the first turn by turns."""
    plain: list[float] = []
    told: list[float] = []
    options = {"mode": "image", "num_inference_steps": num_steps}
    every = num_steps // (num_previews + 1)
    for number in range(num_repetitions):
        document = [f"an image {number} with previews"]
        seconds(answer(engine, document, mode="image", num_inference_steps=1))
        for times, preview_every in [(plain, 0), (told, every)][:: 1 if number % 2 else -1]:
            times.append(seconds(answer(engine, document, preview_every=preview_every, **options)))
    return min(told) / min(plain)


def cancelling(engine: BatchingEngine, num_steps: int, num_repetitions: int) -> tuple[float, float]:
    """Most seconds from a cancel in a drawing to its last event, and those of a denoising step."""

    async def one() -> float:
        options = GenerationOptions(mode="image", num_inference_steps=num_steps)
        handle = engine.submit(GenerationRequest(document=["an image"], options=options))
        await anext(handle)
        begin = time.perf_counter()
        handle.cancel("client")
        async for _ in handle:
            pass
        return time.perf_counter() - begin

    whole = seconds(answer(engine, ["an image"], mode="image", num_inference_steps=num_steps))
    return max(asyncio.run(one()) for _ in range(num_repetitions)), whole / num_steps


def conversations(model: MMInterleaved, count: int, cache_bytes: int, picture: Image.Image) -> tuple[int, int, int]:
    """Resident bytes before and after so many conversations of two turns, and how many are kept."""
    engine = BatchingEngine(model, EngineLimits(cache_bytes=cache_bytes))
    options = {"mode": "text", "max_new_tokens": 4}

    async def some(numbers: Sequence[int]) -> None:
        documents: list[list[Any]] = [[picture.rotate(number), f" conversation {number}"] for number in numbers]
        await asyncio.gather(*(answer(engine, document, **options) for document in documents))
        await asyncio.gather(*(answer(engine, [*document, " goes on"], **options) for document in documents))

    asyncio.run(some(range(NUM_CLIENTS)))
    before = resident_bytes("VmRSS")
    for first in range(0, count, NUM_CLIENTS):
        asyncio.run(some(range(first, first + NUM_CLIENTS)))
    after, stats = resident_bytes("VmRSS"), engine.stats()
    assert stats.conversation_bytes <= cache_bytes
    engine.close()
    return before, after, stats.num_conversations


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench.serving", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=60, help="of a text")
    parser.add_argument("--steps", type=int, default=30, help="of an image")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--conversations", type=int, default=200)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = MMInterleaved.from_pretrained(options.model)
    picture = Image.radial_gradient("L").resize((48, 48)).convert("RGB")
    engine = BatchingEngine(model, EngineLimits())
    writing = {"mode": "text", "max_new_tokens": options.tokens, "min_new_tokens": options.tokens}
    check = ["what is written alone"]
    assert text_of(asyncio.run(answer(engine, check, **writing))[0]) == model.generate(check, **writing).text

    alone, several = together(engine, options.repetitions, "text", **writing)
    print(f"{NUM_CLIENTS} text clients together: {NUM_CLIENTS * alone / several:.2f} times the tokens/s of one")
    drawing = {"mode": "image", "num_inference_steps": options.steps}
    alone, several = together(engine, options.repetitions, "image", **drawing)
    print(f"{NUM_CLIENTS} images together: {several / (NUM_CLIENTS * alone):.2f} of the time one by one")
    speed, slower = beside(engine, 2 * options.tokens, options.steps, options.repetitions)
    print(f"text beside a drawing: {speed:.2f} of its speed alone; the image takes {slower:.2f} times its time")
    cost = previewing(engine, options.steps, NUM_PREVIEWS, 2 * options.repetitions) - 1
    print(f"{NUM_PREVIEWS} previews of an image: {100 * cost:.1f} % of its time")
    late, step = cancelling(engine, options.steps, 4 * options.repetitions)
    print(f"cancel in a drawing: at most {1e3 * late:.1f} ms; a denoising step takes {1e3 * step:.1f} ms")
    engine.close()
    kept, anew, share = turns(model, options.turns, options.repetitions, picture)
    print(f"turn {options.turns} kept: first text in {kept / anew:.2f} of the time; {share:.2f} of its prompt was kept")
    limit = 32 * MIB
    before, after, num_kept = conversations(model, options.conversations, limit, picture)
    print(
        f"{options.conversations} conversations: resident memory {before / MIB:.0f} -> {after / MIB:.0f} MiB, "
        f"{num_kept} kept within {limit / MIB:.0f} MiB"
    )


if __name__ == "__main__":
    main()
