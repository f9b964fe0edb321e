"""Hundreds of conversations and of cancelled requests: memory stays bounded, and what comes next is right."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from image_urls import data_url, image_at, noise, same_image
from live_server import request_bytes
from server_process import ServerProcess, served

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
MIB = 1 << 20
CACHE_MIB = 16
NUM = 200


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with served("--cache-memory", str(CACHE_MIB), "--max-kept", "1", "--max-running", "4") as running:
        yield running


def resident(server: ServerProcess) -> int:
    """Bytes of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def an_image(seed: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(noise(seed))}}


def ask(server: ServerProcess, messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    answer = server.ask("POST", CHAT, {"messages": messages, **options})
    assert answer.status == 200, answer.body
    return answer.json


def converse(server: ServerProcess, number: int) -> int:
    """Two turns, every tenth with a drawing; how many tokens of the second one's prompt were kept."""
    messages = [{"role": "user", "content": [an_image(number), {"type": "text", "text": f" number {number} is"}]}]
    first = ask(server, messages, modalities=["text"], max_tokens=4)
    if number % 10 == 0:
        drawn = ask(server, messages, modalities=["image"], mmfs={"num_inference_steps": 2, "sampling_locations": True})
        assert drawn["choices"][0]["message"]["images"]
    messages += [first["choices"][0]["message"], {"role": "user", "content": " and then"}]
    second = ask(server, messages, modalities=["text"], max_tokens=4)
    return second["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Resident memory is read from /proc.")
def test_memory_is_bounded_after_many_conversations(server: ServerProcess):
    for number in range(20):
        assert converse(server, number) > 0
    before = resident(server)
    for number in range(20, NUM):
        assert converse(server, number) > 0, "a conversation that has just been read was forgotten"
    kept = server.counter("conversation_bytes")
    assert 0.5 * CACHE_MIB * MIB < kept <= CACHE_MIB * MIB, "the cache is not full, so the test shows nothing"
    assert resident(server) <= 1.25 * (before + CACHE_MIB * MIB)


def leave(server: ServerProcess, body: dict[str, Any], num_bytes: int, pause: float = 0) -> None:
    """Ask, read so many bytes of the answer, wait for some seconds, and go."""
    with closing(server.connect()) as connection:
        connection.sendall(request_bytes("POST", CHAT, body))
        while num_bytes > 0:
            num_bytes -= len(connection.recv(num_bytes))
        time.sleep(pause)


def stop(server: ServerProcess, body: dict[str, Any]) -> str:
    """Ask for a stream, stop it by its id, and read it to its end; why it ended."""
    with closing(server.connect()) as connection:
        connection.sendall(request_bytes("POST", CHAT, body))
        with connection.makefile("rb") as lines:
            first = next(line for line in lines if line.startswith(b"data: "))
            id = json.loads(first.removeprefix(b"data: "))["id"]
            assert server.ask("DELETE", f"/v1/mmfs/requests/{id}").status == 200
            rest = [line for line in lines if line.startswith(b"data: ")]
    assert rest[-1].strip() == b"data: [DONE]"
    return json.loads(rest[-2].removeprefix(b"data: "))["mmfs"]["finish"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Resident memory is read from /proc.")
def test_many_cancelled_requests_leave_nothing_behind(server: ServerProcess):
    """Reading, writing and drawing, streamed or not, by going away and by DELETE."""
    prompt = [{"role": "user", "content": [an_image(1), {"type": "text", "text": " a snail and"}]}]
    drawing = {"messages": prompt, "modalities": ["image"], "seed": 5, "mmfs": {"num_inference_steps": 4}}
    writing = {"messages": prompt, "modalities": ["text"], "max_tokens": 12}
    expected = [ask(server, **each)["choices"][0]["message"] for each in (drawing, writing)]
    long_drawing = {**drawing, "mmfs": {"num_inference_steps": 900, "preview_every": 1}}
    long_writing = {**writing, "max_tokens": 300, "mmfs": {"min_new_tokens": 300}}
    dice = random.Random(0)

    def some(count: int) -> None:
        for _ in range(count):
            body = dict(dice.choice((long_drawing, long_writing)))
            if dice.random() < 0.25:
                assert stop(server, {**body, "stream": True}) == "cancelled"
            elif dice.random() < 0.5:
                leave(server, {**body, "stream": True}, dice.choice((1, 400, 2000)))
            else:
                leave(server, body, 0, pause=dice.uniform(0, 0.05))
        server.wait_until(lambda: server.counter("num_requests_running") == 0)

    some(40)
    before, num_cancelled = resident(server), cancelled(server)
    some(NUM)
    # Who goes before the body is read has asked for nothing yet.
    assert cancelled(server) >= num_cancelled + 0.7 * NUM, "too few were cancelled, so the test shows nothing"
    assert resident(server) <= before + 16 * MIB
    drawn, written = (ask(server, **each)["choices"][0]["message"] for each in (drawing, writing))
    assert written["content"] == expected[1]["content"]
    before, after = (image_at(message["images"][0]["image_url"]["url"]) for message in (expected[0], drawn))
    assert same_image(before, after)


def cancelled(server: ServerProcess) -> float:
    return sum(server.counter(f'cancelled_total{{why="{why}"}}') for why in ("client", "request"))
