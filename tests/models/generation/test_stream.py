from collections.abc import Callable, Generator
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import nn

from models import MMInterleaved
from models.generation.generated import Finished, Progress
from models.generation.stream import GenerationStream

DOCUMENT = ["a", torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))]


def in_another_thread(work: Callable[[], object]) -> None:
    """Run it there to its end."""
    thread = Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "text", "max_new_tokens": 9, "stop": "never written"},
        {"mode": "text", "max_new_tokens": 9, "num_beams": 3, "length_penalty": 20.0},
        {"mode": "image", "num_inference_steps": 9},
    ],
    ids=["text", "beams", "image"],
)
def test_closing_from_another_thread_ends_it_within_a_step(model: MMInterleaved, options: dict[str, Any]) -> None:
    """The third run of the network is under way when another thread closes the stream."""
    network: nn.Module = model.language_model.decoder if options["mode"] == "text" else model.image_decoder.unet
    num_runs = 0

    def close_in_the_third(*_: object) -> None:
        nonlocal num_runs
        num_runs += 1
        if num_runs == 3:
            in_another_thread(stream.close)

    hook = network.register_forward_hook(close_in_the_third)
    stream = model.generate_stream(DOCUMENT, **options)
    events = list(stream)
    assert num_runs == 3
    assert not any(isinstance(event, Finished) for event in events)
    assert [event.step for event in events if isinstance(event, Progress)] == (
        [1, 2, 3] if options["mode"] == "image" else []
    )
    assert list(stream) == []
    hook.remove()
    assert isinstance(list(model.generate_stream(DOCUMENT, **options))[-1], Finished)


def test_the_work_is_closed_by_whoever_can() -> None:
    """The one who closes, or the one who is in a step, when it is over."""
    ended = []

    def work() -> Generator[int | None, None, None]:
        try:
            yield from range(3)
        finally:
            ended.append(True)

    with GenerationStream(work()) as left:
        assert next(left) == 0
    assert ended == [True]

    def slow() -> Generator[int | None, None, None]:
        try:
            yield 0
            inside.set()
            assert closed.wait(60)
            yield 1
        finally:
            ended.append(True)

    inside, closed = Event(), Event()
    found: list[int] = []
    stream = GenerationStream(slow())
    thread = Thread(target=lambda: found.extend(stream))
    thread.start()
    assert inside.wait(60)
    with pytest.raises(RuntimeError, match="Another thread is waiting for an item of this stream"):
        next(stream)
    stream.close()
    stream.close()
    closed.set()
    thread.join(60)
    assert found == [0, 1]
    assert ended == [True, True]


def test_an_error_ends_it(model: MMInterleaved) -> None:
    def damaged(*_: object) -> None:
        raise ArithmeticError

    stream = model.generate_stream(DOCUMENT, mode="text")
    hook = model.language_model.decoder.register_forward_hook(damaged)
    with pytest.raises(ArithmeticError):
        next(stream)
    hook.remove()
    assert list(stream) == []


def test_nothing_leaves_its_mark_between_two_items(model: MMInterleaved) -> None:
    stream = model.generate_stream(DOCUMENT, mode="text", max_new_tokens=3)
    for _ in stream:
        assert torch.is_grad_enabled()
    stream.close()
    assert torch.is_grad_enabled()


def test_steps_without_items_can_be_taken_one_by_one() -> None:
    def work() -> Generator[int | None, None, None]:
        yield from (None, 1, None, 2)

    stream = GenerationStream(work())
    assert [stream.step(), stream.step(), next(stream)] == [None, 1, 2]
    with pytest.raises(StopIteration):
        stream.step()
