"""What joins the engine's thread with a client's loop: order, memory, the end."""

import asyncio
import threading

from PIL import Image

from export.serve.engine.events import Cancelled
from export.serve.engine.handle import BUFFERED_EVENTS, Handle
from models.generation.generated import Progress

IMAGE = Image.new("RGB", (2, 2))


def all_of(handle: Handle) -> list:
    async def read() -> list:
        return [event async for event in handle]

    return asyncio.run(asyncio.wait_for(read(), 5))


def test_text_joins_and_of_progress_the_newest_is_kept():
    handle = Handle("a")
    for event in ("a ", "snail", Progress(0, 1, 3), Progress(0, 2, 3), IMAGE, " and", Cancelled("request")):
        handle.put(event)
    assert all_of(handle) == ["a snail", Progress(0, 2, 3), IMAGE, " and", Cancelled("request")]


def test_after_the_last_event_nothing_comes():
    handle = Handle("a")
    handle.put(Cancelled("client"))
    handle.put("too late")
    assert all_of(handle) == [Cancelled("client")]


def test_a_full_buffer_says_so_and_tells_when_it_has_room():
    told = []
    handle = Handle("a", lambda: told.append(handle.is_full))
    for _ in range(BUFFERED_EVENTS):
        assert not handle.is_full
        handle.put(IMAGE)
    assert handle.is_full
    asyncio.run(anext(handle))
    assert told == [False]


def test_the_first_reason_to_cancel_counts_and_none_after_the_end():
    told = []
    handle = Handle("a", lambda: told.append(True))
    handle.cancel("request")
    handle.cancel("client")
    assert (handle.cancel_reason, told) == ("request", [True])
    ended = Handle("b")
    ended.put(Cancelled("client"))
    ended.cancel("request")
    assert ended.cancel_reason is None


def test_a_reader_that_waits_is_woken_from_another_thread():
    handle = Handle("a")

    async def read() -> list:
        threading.Timer(0.05, lambda: [handle.put("x"), handle.put(Cancelled("request"))]).start()
        return [event async for event in handle]

    assert "".join(event for event in asyncio.run(asyncio.wait_for(read(), 5)) if isinstance(event, str)) == "x"
