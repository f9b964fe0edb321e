"""Every path of the engine gives what `generate` gives: batched or not, cached or not, whatever happens beside it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from export.runtime import Session
from export.serve.engine.admission import AdmissionQueue
from export.serve.engine.batching import BatchingEngine
from export.serve.engine.events import Cancelled, Completed, Event, Failed, Scored
from export.serve.engine.forecast import Forecast
from export.serve.engine.handle import Handle
from export.serve.engine.interface import (
    Asker,
    EngineStopped,
    GenerationRequest,
    NeverFits,
    QueuedTooLong,
    QueueFull,
    ScoreRequest,
)
from export.serve.engine.limits import EngineLimits
from export.validate.end_to_end import compare
from models import MMInterleaved
from models.generation.generated import Generated, Preview, Progress
from models.generation.options import GenerationOptions
from models.generation.state import GenerativeModel
from models.generation.torch_state import TorchGenerationState
from models.images.image_file import open_image
from models.torch_defaults import usual_torch_defaults

WRITTEN = {"mode": "text", "max_new_tokens": 12, "min_new_tokens": 12}
PATIENCE_S = 120
DRAWN = {"mode": "image", "num_inference_steps": 4}


@pytest.fixture(scope="module", params=["torch", "ort"])
def served(request: pytest.FixtureRequest, model_dir: Path) -> GenerativeModel:
    if request.param == "torch":
        return MMInterleaved.from_pretrained(model_dir)
    return Session.open(request.getfixturevalue("exported"), "ort")


@pytest.fixture
def engine(served: GenerativeModel) -> Iterator[BatchingEngine]:
    running = BatchingEngine(served, EngineLimits(read_budget=24))
    yield running
    running.close()


@pytest.fixture(scope="module")
def pictures(model_dir: Path) -> list[Image.Image]:
    return [open_image(file) for file in sorted((model_dir / "samples").glob("*.png"))]


async def events_of(engine: BatchingEngine, document: list[Any], preview_every: int = 0, **options: Any) -> list[Event]:
    request = GenerationRequest(document=document, options=GenerationOptions(**options), preview_every=preview_every)
    return [event async for event in engine.submit(request)]


def asked(*work: Coroutine[Any, Any, list[Event]]) -> list[list[Event]]:
    async def together() -> list[list[Event]]:
        return list(await asyncio.wait_for(asyncio.gather(*work), PATIENCE_S))

    return asyncio.run(together())


def generated(document: list[Any], events: list[Event]) -> Generated:
    """The same as `generate` returns it."""
    result = Generated(document)
    for event in events[:-1]:
        assert isinstance(event, str | Progress | Preview | Image.Image)
        result.add(event)
    last = events[-1]
    assert isinstance(last, Completed), last
    result.add(last.finished)
    return result


def check(served: Any, document: list[Any], events: list[Event], **options: Any) -> Completed:
    found, expected = generated(document, events), served.generate(document, **options)
    assert compare(expected, found) is None
    assert (found.finish_reason, found.num_new_tokens, found.num_prompt_tokens, found.num_cut) == (
        expected.finish_reason,
        expected.num_new_tokens,
        expected.num_prompt_tokens,
        expected.num_cut,
    )
    last = events[-1]
    assert isinstance(last, Completed)
    return last


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
def test_all_kinds_together_are_as_each_alone(
    served: GenerativeModel, engine: BatchingEngine, pictures: list[Image.Image]
) -> None:
    work: list[tuple[list[Any], dict[str, Any]]] = [
        (["one"], WRITTEN),
        ([pictures[0], "a longer text that is read in several pieces, and then"], {**WRITTEN, "temperature": 1.0}),
        (["draw"], {"max_new_tokens": 8, "max_new_images": 2, "num_inference_steps": 3, "seed": 5}),
        ([pictures[1], "draw"], {**DRAWN, "guidance_scale": 1.0, "scheduler": "ddpm", "seed": 3}),
        (["two", pictures[2]], {**DRAWN, "scheduler": "dpm", "max_new_images": 2, "num_inference_steps": 5}),
        (["b"], {"mode": "text", "max_new_tokens": 5, "num_beams": 3}),
        (["c"], {"mode": "text", "max_new_tokens": 0}),
        (["d"], {**WRITTEN, "repetition_penalty": 1.5, "stop": "u"}),
        ([], WRITTEN),
    ]
    found = asked(*(events_of(engine, document, **options) for document, options in work))
    for (document, options), events in zip(work, found, strict=True):
        completed = check(served, document, events, **options)
        steps = [event.step for event in events if isinstance(event, Progress)]
        assert (not steps) == (completed.num_new_images == 0)
    assert engine.stats().num_running == 0


def test_a_next_turn_reads_what_is_new(served: Any, engine: BatchingEngine, pictures: list[Image.Image]) -> None:
    """Continued, asked again, and edited: with the same result as from the beginning."""
    document: list[Any] = [pictures[0], "it begins with an image"]
    (events,) = asked(events_of(engine, document, **WRITTEN))
    assert check(served, document, events, **WRITTEN).finished.num_cached_tokens == 0
    answer = generated(document, events)
    document = [*document, *answer, " and then", pictures[1], " after that"]
    (events,) = asked(events_of(engine, document, **WRITTEN))
    completed = check(served, document, events, **WRITTEN)
    assert completed.finished.num_cached_tokens >= 20
    for again in ({"seed": 1, **WRITTEN}, {"seed": 2, "temperature": 0.9, **WRITTEN}):
        (events,) = asked(events_of(engine, document, **again))
        repeated = check(served, document, events, **again)
        assert repeated.finished.num_cached_tokens == completed.finished.num_prompt_tokens - 1
    edited = [*document[:-1], " before"]
    (events,) = asked(events_of(engine, edited, **DRAWN))
    assert check(served, edited, events, **DRAWN).finished.num_cached_tokens > completed.finished.num_cached_tokens
    other = [pictures[2], *document[1:]]
    (events,) = asked(events_of(engine, other, **WRITTEN))
    assert check(served, other, events, **WRITTEN).finished.num_cached_tokens == 0, "another image stands first"
    assert engine.stats().conversation_bytes > 0


def test_what_one_client_sent_is_not_found_by_another(engine: BatchingEngine) -> None:
    async def cached(scope: str) -> int:
        request = GenerationRequest(
            document=["a text of some length"],
            options=GenerationOptions(**WRITTEN),  # type: ignore[arg-type]
            asker=Asker(cache_scope=scope),
        )
        *_, last = [event async for event in engine.submit(request)]
        assert isinstance(last, Completed)
        return last.finished.num_cached_tokens

    async def one_after_another() -> list[int]:
        return [await cached(scope) for scope in ("a", "b", "a")]

    first, second, third = asyncio.run(one_after_another())
    assert (first, second) == (0, 0)
    assert third > 10


def test_previews_come_between_the_steps(engine: BatchingEngine) -> None:
    (events,) = asked(events_of(engine, ["draw"], preview_every=2, **{**DRAWN, "num_inference_steps": 5}))
    assert any(isinstance(event, Preview) for event in events)
    assert isinstance(events[-2], Image.Image)


def test_scores_are_those_of_the_library(served: Any, engine: BatchingEngine) -> None:
    async def scored() -> Event:
        request = ScoreRequest(document=["one"], candidates=["a", "longer"])
        *_, last = [event async for event in engine.submit(request)]
        return last

    last = asyncio.run(scored())
    assert isinstance(last, Scored)
    for found, expected in zip(last.scores, served.score(["one"], ["a", "longer"]), strict=True):
        assert (found.candidate, found.rank) == (expected.candidate, expected.rank)
        assert found.log_probability == pytest.approx(expected.log_probability, rel=1e-3)


def test_a_score_stops_between_candidates(served: Any, engine: BatchingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are computed between its steps, and it is cancelled in the middle."""
    handles: list[Handle] = []
    state = type(served.begin_generation(1))
    log_probabilities, num_read = state.log_probabilities, []

    def counted(self: Any, answers: list[list[int]]) -> list[float]:
        num_read.append(len(answers))
        if len(num_read) == 3:
            handles[0].cancel("client")
        return log_probabilities(self, answers)

    monkeypatch.setattr(state, "log_probabilities", counted)

    async def scored() -> list[Event]:
        candidates = [f"candidate {number}" for number in range(60)]
        handles.append(engine.submit(ScoreRequest(document=["one"], candidates=candidates)))
        return [event async for event in handles[0]]

    gone, other = asked(scored(), events_of(engine, ["one"], **WRITTEN))
    assert gone == [Cancelled("client")]
    assert num_read == [8, 8, 8]
    check(served, ["one"], other, **WRITTEN)


@pytest.mark.parametrize("when", ["waiting", "writing", "drawing", "searching"])
def test_a_cancelled_request_leaves_the_others_alone(served: Any, engine: BatchingEngine, when: str) -> None:
    long = {
        "waiting": WRITTEN,
        "writing": {"mode": "text", "max_new_tokens": 400, "min_new_tokens": 400},
        "drawing": {**DRAWN, "num_inference_steps": 1000},
        "searching": {"mode": "text", "max_new_tokens": 300, "num_beams": 4, "length_penalty": 20.0},
    }[when]

    async def cancelled() -> list[Event]:
        handle = engine.submit(GenerationRequest(document=["abc"], options=GenerationOptions(**long)))
        if when == "waiting":
            handle.cancel("client")
        elif when == "searching":
            await asyncio.sleep(0.2)
        else:
            await anext(handle)
        handle.cancel("client")
        return [event async for event in handle]

    gone, other = asked(cancelled(), events_of(engine, ["one"], **WRITTEN))
    assert gone[-1] == Cancelled("client")
    check(served, ["one"], other, **WRITTEN)
    (again,) = asked(events_of(engine, ["abc"], **WRITTEN))
    check(served, ["abc"], again, **WRITTEN)
    assert engine.stats().num_running == 0


def test_many_cancels_leave_nothing_behind(served: Any, engine: BatchingEngine) -> None:
    async def cancelled(number: int) -> None:
        options = GenerationOptions(**(WRITTEN if number % 2 else DRAWN))  # type: ignore[arg-type]
        handle = engine.submit(GenerationRequest(document=[f"text {number}"], options=options))
        await asyncio.sleep(0.003 * (number % 7))
        handle.cancel("client")
        async for _ in handle:
            pass

    async def all_of_them() -> None:
        await asyncio.gather(*(cancelled(number) for number in range(40)))

    asyncio.run(all_of_them())
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_writing, stats.num_drawing) == (0, 0, 0, 0)
    (events,) = asked(events_of(engine, ["one"], **WRITTEN))
    check(served, ["one"], events, **WRITTEN)


def test_what_cannot_be_read_fails_alone(served: Any, engine: BatchingEngine) -> None:
    work = asked(events_of(engine, ["word " * 600], **WRITTEN), events_of(engine, ["one"], **WRITTEN))
    assert isinstance(work[0][-1], Failed)
    assert "the language model reads 512" in str(work[0][-1].error)
    check(served, ["one"], work[1], **WRITTEN)


def test_a_document_that_becomes_too_long_ends_or_fails_alone(served: Any, engine: BatchingEngine) -> None:
    document = ["a " * 490]
    options = {"mode": "text", "max_new_tokens": 40, "min_new_tokens": 40}
    cut, failed, other = asked(
        events_of(engine, document, overflow="cut", **options),
        events_of(engine, document, **options),
        events_of(engine, ["one"], **WRITTEN),
    )
    check(served, document, cut, overflow="cut", **options)
    assert isinstance(failed[-1], Failed)
    assert "the language model reads 512" in str(failed[-1].error)
    check(served, ["one"], other, **WRITTEN)


def test_the_default_dtype_is_the_programs_while_the_engine_waits(served: Any, engine: BatchingEngine) -> None:
    """PyTorch has one default for all threads; a server's engine may wait in the program of somebody else."""
    [events] = asked(events_of(engine, ["a snail"], **WRITTEN))
    check(served, ["a snail"], events, **WRITTEN)
    patience = time.monotonic() + PATIENCE_S / 10  # its last round may not be over
    try:
        while torch.get_default_dtype() != torch.float64 and time.monotonic() < patience:
            torch.set_default_dtype(torch.float64)
            with usual_torch_defaults():
                pass
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def poisoned(model: MMInterleaved) -> Iterator[BatchingEngine]:
    """An engine whose networks fail at some position of a document, and at some time steps of an image."""
    engine = BatchingEngine(model, EngineLimits())

    def refuse_to_write(_module: object, _args: object, given: dict[str, Any]) -> None:
        if int(given["position_ids"].max()) >= 30:
            raise RuntimeError("a kernel failed")

    def refuse_to_draw(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        if bool((args[1] == 749).any()):
            raise RuntimeError("a kernel failed while drawing")

    model.language_model.register_forward_pre_hook(refuse_to_write, with_kwargs=True)
    model.image_decoder.unet.register_forward_pre_hook(refuse_to_draw)
    yield engine
    engine.close()


def test_an_exception_in_a_batch_fails_the_guilty_alone(
    unchanged_model: MMInterleaved, poisoned: BatchingEngine
) -> None:
    """Position 30 cannot be computed, and neither can time step 749, the second of 4. Whoever is in the batch when it
    fails and does not come there goes on."""
    engine = poisoned
    long = {"mode": "text", "max_new_tokens": 60, "min_new_tokens": 60}
    drawing = {"mode": "image", "guidance_scale": 1.0}
    guilty, innocent, other, lost, drawn = asked(
        events_of(engine, ["a" * 18], **long),
        events_of(engine, ["b"], **{**WRITTEN, "max_new_tokens": 20, "min_new_tokens": 20}),
        events_of(engine, ["c"], **WRITTEN),
        events_of(engine, ["d"], **drawing, num_inference_steps=4),
        events_of(engine, ["e"], **drawing, num_inference_steps=10),
    )
    assert isinstance(guilty[-1], Failed)
    assert str(guilty[-1].error) == "a kernel failed"
    assert isinstance(lost[-1], Failed)
    assert str(lost[-1].error) == "a kernel failed while drawing"
    check(unchanged_model, ["b"], innocent, **{**WRITTEN, "max_new_tokens": 20, "min_new_tokens": 20})
    check(unchanged_model, ["c"], other, **WRITTEN)
    check(unchanged_model, ["e"], drawn, **drawing, num_inference_steps=10)
    assert engine.stats().num_running == 0


def test_an_exception_that_is_nobodys_fails_all_of_the_batch_and_nobody_waits(
    unchanged_model: MMInterleaved, poisoned: BatchingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the documents of a batch cannot be taken apart, all of them end; the next one is answered."""
    writing = {"mode": "text", "max_new_tokens": 60, "min_new_tokens": 60}
    with monkeypatch.context() as broken:

        def refuse(_state: object, _rows: object) -> None:
            raise RuntimeError("no memory for a copy")

        broken.setattr(TorchGenerationState, "copied", refuse)
        found = asked(*(events_of(poisoned, [name], **writing) for name in "abc"))
    for events in found:
        assert isinstance(events[-1], Failed)
        assert str(events[-1].error) == "no memory for a copy"
    assert poisoned.stats().num_running == 0
    (again,) = asked(events_of(poisoned, ["b"], **WRITTEN))
    check(unchanged_model, ["b"], again, **WRITTEN)


def test_an_error_of_admission_ends_those_that_wait(model: MMInterleaved, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = BatchingEngine(model, EngineLimits())
    try:
        with monkeypatch.context() as broken:
            take_next, refused = AdmissionQueue.next, []

            def refuse(queue: AdmissionQueue[Any], *arguments: Any) -> Any:
                if len(queue) and not refused:
                    refused.append(True)
                    raise RuntimeError("no order")
                return take_next(queue, *arguments)

            broken.setattr(AdmissionQueue, "next", refuse)
            (events,) = asked(events_of(engine, ["a"], **WRITTEN))
        assert isinstance(events[-1], Failed)
        assert str(events[-1].error) == "no order"
        (events,) = asked(events_of(engine, ["a"], **WRITTEN))
        assert isinstance(events[-1], Completed)
    finally:
        engine.close()


def test_who_waits_too_long_waits_for_others(served: GenerativeModel) -> None:
    engine = BatchingEngine(served, EngineLimits(max_running=1, queue_timeout=0.05))
    try:
        first, second = asked(
            events_of(engine, ["a"], **{**DRAWN, "num_inference_steps": 60}), events_of(engine, ["b"], **WRITTEN)
        )
        assert isinstance(first[-1], Completed)
        assert isinstance(second[-1], Failed)
        assert isinstance(second[-1].error, QueuedTooLong)
    finally:
        engine.close()
    with pytest.raises(EngineStopped, match="The server is stopping"):
        engine.submit(GenerationRequest(document=["a"], options=GenerationOptions()))


def needed(served: GenerativeModel, num_tokens: int, num_images: int = 0) -> int:
    """Bytes of a document."""
    return Forecast.measured(served).of(num_tokens, num_images)


def test_memory_admits_as_many_as_fit(served: GenerativeModel) -> None:
    """Each document takes <s>, a token and 12 new ones: two of them have room beside each other."""
    engine = BatchingEngine(served, EngineLimits(memory_bytes=2 * needed(served, 14)))
    try:
        most = []
        watched = engine._tick

        def tick() -> None:
            most.append(engine.stats().num_running)
            watched()

        engine._tick = tick  # type: ignore[method-assign]
        found = asked(*(events_of(engine, [name], **WRITTEN) for name in "abc"))
        for name, events in zip("abc", found, strict=True):
            check(served, [name], events, **WRITTEN)
        assert max(most) == 2
    finally:
        engine.close()


def test_what_never_fits_into_memory_is_refused_at_once(served: GenerativeModel, pictures: list[Image.Image]) -> None:
    num_visual = served.config.visual_tokenizer.num_visual_tokens
    engine = BatchingEngine(served, EngineLimits(memory_bytes=needed(served, 15 + num_visual, 1) - 1))
    try:
        with pytest.raises(NeverFits) as caught:
            asked(events_of(engine, [pictures[0], "a"], **WRITTEN))
        for part in (f"for {15 + num_visual} tokens and 1 images", "all requests together have", "larger --memory"):
            assert part in str(caught.value)
        assert engine.stats().num_waiting == 0
        (events,) = asked(events_of(engine, ["a"], **WRITTEN))
        check(served, ["a"], events, **WRITTEN)
        (failed,) = asked(events_of(engine, ["word " * 600], **WRITTEN))
        assert isinstance(failed[-1], Failed)
        assert "the language model reads 512" in str(failed[-1].error), "which no memory helps with"
    finally:
        engine.close()


def test_who_would_wait_too_long_for_memory_is_told_when_to_come_again(served: GenerativeModel) -> None:
    """A usual request takes a second before any is measured; half of one is too long for the second one here."""
    engine = BatchingEngine(served, EngineLimits(memory_bytes=2 * needed(served, 14), queue_timeout=0.4))
    try:
        with pytest.raises(QueueFull, match="seconds until there is memory for this request") as caught:
            asked(*(events_of(engine, [name], **WRITTEN) for name in "abc"))
        assert caught.value.retry_after == pytest.approx(0.5)
    finally:
        engine.close()


def test_a_document_becomes_tokens_while_nobody_waits(
    model: MMInterleaved, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that takes long to be prepared holds neither the engine nor who submits meanwhile."""
    engine = BatchingEngine(model, EngineLimits(memory_bytes=1 << 40))
    is_preparing, go_on = threading.Event(), threading.Event()
    encode_image = model.processor.encode_image  # type: ignore[union-attr]

    def slow(image: Any) -> torch.Tensor:
        is_preparing.set()
        assert go_on.wait(PATIENCE_S)
        return encode_image(image)

    monkeypatch.setattr(model.processor, "encode_image", slow)
    found: list[list[Event]] = []
    with_image = threading.Thread(
        target=lambda: found.extend(asked(events_of(engine, [pictures[0], "a"], **WRITTEN))), daemon=True
    )
    with_image.start()
    try:
        assert is_preparing.wait(PATIENCE_S)
        (events,) = asked(events_of(engine, ["a"], **WRITTEN))
        assert isinstance(events[-1], Completed)
        go_on.set()
        with_image.join(PATIENCE_S)
        assert isinstance(found[0][-1], Completed)
    finally:
        go_on.set()
        engine.close()
