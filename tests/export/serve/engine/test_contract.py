"""What `export/serve/engine/interface.py` promises, of every engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from PIL import Image

from export.serve.engine.batching import BatchingEngine
from export.serve.engine.events import Cancelled, Completed, Event, Failed, Scored
from export.serve.engine.handle import Handle
from export.serve.engine.interface import (
    Asker,
    Engine,
    EngineStopped,
    GenerationRequest,
    QueuedTooLong,
    QueueFull,
    ScoreRequest,
)
from export.serve.engine.limits import EngineLimits
from image_urls import same_image
from models import MMInterleaved
from models.generation.generated import Progress
from models.generation.options import GenerationOptions

ENGINES = [BatchingEngine]
PATIENCE_S = 60
MakeEngine = Callable[..., Engine]
TEXT = GenerationOptions(mode="text", max_new_tokens=6)
DRAWING = GenerationOptions(mode="image", num_inference_steps=900)


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, toy: MMInterleaved) -> Iterator[MakeEngine]:
    """Makes an engine, which ends with the test."""
    engines: list[Engine] = []

    def make_engine(**limits: float) -> Engine:
        engines.append(request.param(toy, EngineLimits(**limits)))  # type: ignore[arg-type]
        return engines[-1]

    yield make_engine
    for engine in engines:
        engine.close()


def asked(text: str, options: GenerationOptions = TEXT, client: str = "") -> GenerationRequest:
    return GenerationRequest(document=[text], options=options, asker=Asker(client=client))


def events_of(*handles: Handle) -> list[list[Event]]:
    async def read(handle: Handle) -> list[Event]:
        return [event async for event in handle]

    async def read_all() -> list[list[Event]]:
        return list(await asyncio.wait_for(asyncio.gather(*map(read, handles)), PATIENCE_S))

    return asyncio.run(read_all())


def text_of(events: list[Event]) -> str:
    return "".join(event for event in events if isinstance(event, str))


def wait_until(what: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def test_several_requests_at_once_are_what_each_is_alone(make: MakeEngine, toy: MMInterleaved):
    texts = ["a snail", "a rocket on a", "this is"]
    drawing = replace(DRAWING, num_inference_steps=3, seed=4)
    engine = make()
    found = events_of(*(engine.submit(asked(text)) for text in texts), engine.submit(asked("a snail", drawing)))
    for text, events in zip(texts, found, strict=False):
        expected = toy.generate([text], mode="text", max_new_tokens=6)
        assert text_of(events) == expected.text
        assert isinstance(events[-1], Completed)
        assert events[-1].finished.finish_reason == expected.finish_reason
        assert events[-1].finished.num_prompt_tokens == expected.num_prompt_tokens
    (drawn,) = toy.generate(["a snail"], mode="image", num_inference_steps=3, seed=4).images
    (image,) = [event for event in found[3] if isinstance(event, Image.Image)]
    assert same_image(image, drawn)
    assert isinstance(found[3][-1], Completed)
    assert found[3][-1].num_new_images == 1


def test_scores_come_beside_other_work(make: MakeEngine, toy: MMInterleaved):
    engine = make()
    score = ScoreRequest(document=["this is"], candidates=[" a snail", " a rocket"])
    scored, text = events_of(engine.submit(score), engine.submit(asked("a snail")))
    assert isinstance(scored[-1], Scored)
    expected = toy.score(["this is"], [" a snail", " a rocket"])
    assert [one.rank for one in scored[-1].scores] == [one.rank for one in expected]
    assert isinstance(text[-1], Completed)


def test_a_cancelled_drawing_ends_and_others_go_on(make: MakeEngine):
    engine = make()
    drawing = engine.submit(asked("a snail", DRAWING))

    async def until_it_draws() -> None:
        async for event in drawing:
            if isinstance(event, Progress):
                return

    asyncio.run(until_it_draws())
    drawing.cancel("request")
    (left, text) = events_of(drawing, engine.submit(asked("a rocket")))
    assert left[-1] == Cancelled("request")
    assert isinstance(text[-1], Completed)
    wait_until(lambda: engine.stats().num_running == 0)


def test_who_is_cancelled_while_waiting_never_runs(make: MakeEngine):
    engine = make(max_running=1)
    first, second = engine.submit(asked("a", DRAWING)), engine.submit(asked("b"))
    wait_until(lambda: engine.stats().num_running == 1)
    second.cancel("client")
    assert events_of(second) == [[Cancelled("client")]]
    first.cancel("client")
    assert events_of(first)[0][-1] == Cancelled("client")


def test_the_queue_has_an_end_and_so_has_waiting_in_it(make: MakeEngine):
    engine = make(max_running=1, max_queued=1, queue_timeout=0.2)
    drawing = engine.submit(asked("a", DRAWING))
    wait_until(lambda: engine.stats().num_running == 1)
    waiting = engine.submit(asked("b"))
    with pytest.raises(QueueFull) as caught:
        engine.submit(asked("c"))
    assert caught.value.retry_after >= 1
    ((last,),) = events_of(waiting)
    assert isinstance(last, Failed)
    assert isinstance(last.error, QueuedTooLong)
    drawing.cancel("client")


def test_one_client_leaves_places_for_others(make: MakeEngine):
    """Of two places it holds one, and the other goes to who came after its second request."""
    engine = make(max_running=2)
    first = engine.submit(asked("0", DRAWING, "first"))
    greedy = [engine.submit(asked(str(i), DRAWING, "greedy")) for i in range(2)]
    wait_until(lambda: engine.stats().num_running == 2)
    modest = engine.submit(asked("a snail", client="modest"))
    first.cancel("client")
    (found,) = events_of(modest)
    assert isinstance(found[-1], Completed)
    for handle in greedy:
        handle.cancel("client")


def test_what_cannot_be_read_fails_alone(make: MakeEngine):
    engine = make()
    too_long, fine = events_of(engine.submit(asked("a " * 2000)), engine.submit(asked("a snail")))
    assert isinstance(too_long[-1], Failed)
    assert "the language model reads" in str(too_long[-1].error)
    assert isinstance(fine[-1], Completed)


def test_closing_cancels_and_refuses(make: MakeEngine):
    engine = make()
    handle = engine.submit(asked("a", DRAWING))
    engine.close()
    assert events_of(handle)[0][-1] == Cancelled("stopping")
    with pytest.raises(EngineStopped):
        engine.submit(asked("b"))
