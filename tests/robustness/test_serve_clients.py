"""Clients of the server that leave, stop reading, stop sending or die; a model that fails; a server that is stopped."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from export.serve.__main__ import parser
from export.serve.command import keys_of
from export.serve.engine.batching import BatchingEngine
from export.serve.engine.events import Event
from export.serve.engine.interface import Request
from export.serve.engine.limits import EngineLimits
from export.serve.http.keys import Keys
from export.serve.http.service import Service
from export.serve.settings import Settings
from live_server import PATIENCE_S, LiveServer, live, request_bytes, rest_of
from models import MMInterleaved
from scripted_engine import ScriptedEngine, said, without_end
from server_process import TOY, served

CHAT = "/v1/chat/completions"
DRAWING = {
    "messages": [{"role": "user", "content": "a snail"}],
    "modalities": ["image"],
    "mmfs": {"num_inference_steps": 900},
}
WRITING = {"messages": [{"role": "user", "content": "a snail"}], "modalities": ["text"], "max_tokens": 3}


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    return MMInterleaved.from_pretrained(TOY)


@pytest.fixture(scope="module")
def server(model: MMInterleaved) -> Iterator[LiveServer]:
    settings = Settings(name="toy")
    with live(Service(settings), model, BatchingEngine(model, settings.engine)) as running:
        yield running


@contextmanager
def counted_steps(model: MMInterleaved) -> Iterator[list[int]]:
    """One entry for each run of the U-Net."""
    steps: list[int] = []
    hook = model.image_decoder.unet.host.conv_in.register_forward_pre_hook(lambda *_: steps.append(1))
    try:
        yield steps
    finally:
        hook.remove()


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_in_a_drawing_stops_it(server: LiveServer, model: MMInterleaved, stream: bool):
    name = 'cancelled_total{why="client"}'
    before = server.counter(name)
    with counted_steps(model) as steps:
        with server.connect() as connection:
            connection.sendall(request_bytes("POST", CHAT, {**DRAWING, "stream": stream}))
            server.wait_until(lambda: len(steps) >= 3)
        server.wait_until(lambda: server.is_idle)
        assert len(steps) < 450, "it was drawn to the end, or almost"
    assert server.counter(name) == before + 1
    assert server.ask("POST", CHAT, WRITING).status == 200


def test_who_leaves_while_waiting_is_forgotten(model: MMInterleaved):
    settings = Settings(name="toy", engine=EngineLimits(max_running=1))
    with live(Service(settings), model, BatchingEngine(model, settings.engine)) as server:
        with server.connect() as first:
            first.sendall(request_bytes("POST", CHAT, {**DRAWING, "stream": True}))
            server.wait_until(lambda: server.service.served.engine.stats().num_running == 1)
            with server.connect() as second:
                second.sendall(request_bytes("POST", CHAT, WRITING))
                server.wait_until(lambda: server.service.served.engine.stats().num_waiting == 1)
            server.wait_until(lambda: server.service.served.engine.stats().num_waiting == 0)
            assert server.service.served.engine.stats().num_running == 1
        server.wait_until(lambda: server.is_idle)


def test_a_client_that_is_killed_stops_its_request(server: LiveServer, model: MMInterleaved):
    program = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.stdin.buffer.read())
print(connection.recv(100), flush=True)
time.sleep(600)
"""
    with counted_steps(model) as steps:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(request_bytes("POST", CHAT, {**DRAWING, "stream": True}))
            process.stdin.close()
            assert process.stdout.readline()
            process.kill()
        server.wait_until(lambda: server.is_idle)
        assert len(steps) < 450


def test_a_slow_reader_is_paused_and_then_left(model: MMInterleaved):
    """The engine gets no further ahead than the buffers, and after `client_timeout` the request is over."""
    engine = ScriptedEngine(without_end(["x" * 50_000], pause=0))
    service = Service(Settings(name="toy", client_timeout=1.0))
    with live(service, model, engine) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request_bytes("POST", CHAT, {**WRITING, "stream": True}))
        server.wait_until(lambda: engine.num_events > 0)
        server.wait_until(lambda: engine.stats().num_running == 0)
        counters = server.ask("GET", "/metrics").body.decode()
        assert 'mmfs:cancelled_total{why="slow"} 1.0' in counters


def test_who_stops_sending_is_told_so(model: MMInterleaved):
    with live(Service(Settings(name="toy", client_timeout=0.3)), model, ScriptedEngine(said("yes"))) as server:
        with server.connect() as connection:
            whole = request_bytes("POST", CHAT, WRITING)
            connection.sendall(whole[:-5])
            assert b" 408 " in connection.recv(100)
        with server.connect() as connection:  # half of the head, and then nothing
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: ")
            assert server.ask("GET", "/live").status == 200


def test_a_request_takes_no_longer_than_it_may(model: MMInterleaved):
    with live(Service(Settings(name="toy", timeout=0.4)), model, ScriptedEngine(without_end())) as server:
        whole = server.ask("POST", CHAT, WRITING)
        assert (whole.status, whole.headers["x-should-retry"]) == (504, "false")
        streamed = server.ask("POST", CHAT, {**WRITING, "stream": True}).body.split(b"\n\n")
        assert "longer than 0.4 seconds" in json.loads(streamed[-2].removeprefix(b"data: "))["error"]["message"]


def test_waiting_for_a_place_has_an_end(model: MMInterleaved):
    settings = Settings(name="toy", engine=EngineLimits(max_running=1, queue_timeout=0.3))
    with live(Service(settings), model, BatchingEngine(model, settings.engine)) as server, server.connect() as first:
        first.sendall(request_bytes("POST", CHAT, {**DRAWING, "stream": True}))
        server.wait_until(lambda: server.service.served.engine.stats().num_running == 1)
        late = server.ask("POST", CHAT, WRITING)
        assert late.status == 503
        assert int(late.headers["retry-after"]) >= 1


def test_a_model_that_fails_fails_one_request(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    state = type(server.service.served.engine.model.begin_generation(1))  # type: ignore[attr-defined]
    decode = state.decode

    def sometimes(self: object, latents: object) -> object:
        if monkeypatch_is_on:
            raise RuntimeError("secret words of a client")
        return decode(self, latents)

    monkeypatch_is_on = True
    monkeypatch.setattr(state, "decode", sometimes)
    drawing = {**DRAWING, "mmfs": {"num_inference_steps": 2}}
    failed = server.ask("POST", CHAT, drawing)
    assert (failed.status, failed.error["type"]) == (500, "server_error")
    assert "secret" not in failed.body.decode()
    assert "secret" not in caplog.text
    assert "RuntimeError" in caplog.text
    streamed = server.ask("POST", CHAT, {**drawing, "stream": True})
    assert b'"error": {"message": "The model failed' in streamed.body
    assert b"[DONE]" not in streamed.body
    assert server.ask("POST", CHAT, WRITING).status == 200
    monkeypatch_is_on = False
    assert server.ask("POST", CHAT, drawing).status == 200
    assert server.is_idle


def test_an_exception_between_two_pieces_ends_that_answer_alone(model: MMInterleaved):
    def breaks(request: Request) -> Iterator[Event]:
        yield "a word"
        if "bad" in str(request.document[0]):
            raise RuntimeError("broken")

    with live(Service(Settings(name="toy")), model, ScriptedEngine(breaks)) as server:
        bad = {**WRITING, "messages": [{"role": "user", "content": "bad"}], "stream": True}
        assert b"The model failed" in server.ask("POST", CHAT, bad).body
        assert server.ask("POST", CHAT, WRITING).json["choices"][0]["message"]["content"] == "a word"
        events = server.ask("POST", "/v1/responses", {"input": "bad", "stream": True}).body
        assert b"event: response.failed" in events


def test_sigterm_lets_work_end_and_takes_no_more():
    with served("--grace", "50") as server, server.connect() as connection:
        drawing = {**DRAWING, "mmfs": {"num_inference_steps": 60}, "stream": True}
        connection.sendall(request_bytes("POST", CHAT, drawing))
        received = connection.recv(1 << 16)
        server.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        while True:  # it goes on listening
            with server.connect() as other:
                other.sendall(request_bytes("POST", CHAT, WRITING))
                if b" 503 " in (refused := rest_of(other)):
                    break
            assert time.monotonic() - begin < PATIENCE_S
        assert b"The server is stopping" in refused
        received += rest_of(connection)
        assert b'"images"' in received
        assert b"data: [DONE]" in received
        assert server.process.wait(PATIENCE_S) == 0


def test_after_its_grace_a_server_breaks_off_and_says_so():
    with served("--grace", "0") as server, server.connect() as connection:
        connection.sendall(request_bytes("POST", CHAT, {**DRAWING, "stream": True}))
        received = connection.recv(1 << 16)
        server.process.send_signal(signal.SIGTERM)
        received += rest_of(connection)
        assert b'"error"' in received
        assert b"The server is stopping" in received
        assert server.process.wait(PATIENCE_S) == 0
        log = server.log()
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[-1]["path"] == CHAT
    assert "snail" not in log


def test_beyond_this_machine_a_key_is_demanded():
    def keys(*words: str, key: str | None = None) -> Keys:
        return keys_of(parser().parse_args([str(TOY), *words]), key)

    with pytest.raises(ValueError, match="--api-key-file FILE"):
        keys("--host", "0.0.0.0")
    with pytest.raises(ValueError, match="8 to 512"):
        keys(key="short")
    with pytest.raises(ValueError, match="Give one of them"):
        keys("--no-auth", key="long-enough")
    assert not keys()
    assert not keys("--host", "0.0.0.0", "--no-auth")
    assert keys("--host", "::", key="long-enough").name_of("Bearer long-enough") == "environment"
