"""A server of `export.serve` in this process, on a port of its own, and models that answer without a network."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from openai import OpenAI

from export.serve.engine.interface import Engine
from export.serve.http.app import make_app
from export.serve.http.keys import Keys
from export.serve.http.service import Service
from models.generation.state import GenerativeModel

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Answer:
    """Of a request that was written byte by byte."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


@dataclass(frozen=True)
class Address:
    """Of something on this machine that answers HTTP."""

    port: int

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, whatever its headers and body are."""
        with closing(self.connect()) as connection:
            connection.sendall(request_bytes(method, path, body, headers))
            return answer_of(rest_of(connection))

    def wait_until(self, what: Callable[[], bool]) -> float:
        """Seconds until it is so."""
        begin = time.monotonic()
        while not what():
            assert time.monotonic() - begin < PATIENCE_S, "it does not happen"
            time.sleep(0.005)
        return time.monotonic() - begin

    def counter(self, name: str) -> float:
        """Of `/metrics`, by its name without "mmfs:"; 0 if nothing was counted yet."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"mmfs:{name} "))


@dataclass(frozen=True)
class LiveServer(Address):
    service: Service
    clients: list[OpenAI] = field(default_factory=list)

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's client of it, which is closed with the server."""
        given = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE_S, **options}
        self.clients.append(OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", **given))
        return self.clients[-1]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        stats = self.service.served.engine.stats()
        return not self.service.runs and stats.num_running == stats.num_waiting == 0


def request_bytes(
    method: str,
    path: str,
    body: Mapping[str, Any] | bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A request as it is sent."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {
        "Host": "localhost",
        "Connection": "close",
        **({"Content-Type": "application/json", "Content-Length": str(len(content))} if body is not None else {}),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    while chunk := connection.recv(1 << 16):
        received += chunk
    return received


def answer_of(received: bytes) -> Answer:
    """A whole answer as it was sent."""
    head, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if found.get("transfer-encoding") == "chunked":
        rest = _joined(rest)
    return Answer(int(first.split()[1]), found, rest)


def _joined(chunked: bytes) -> bytes:
    """A body without the marks of its chunks."""
    body = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        length = int(size, 16)
        body += chunked[:length]
        chunked = chunked[length + 2 :]
    return body


@contextmanager
def live(service: Service, model: GenerativeModel, engine: Engine, keys: Keys | None = None) -> Iterator[LiveServer]:
    """Serve a model until the block is left."""
    service.serve(model, engine)
    config = uvicorn.Config(
        make_app(service, keys or Keys({})), log_config=None, access_log=False, lifespan="off", ws="none"
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="server")
        thread.start()
        running = LiveServer(listener.getsockname()[1], service)
        try:
            yield running
        finally:
            for client in running.clients:
                client.close()
            server.should_exit = True
            service.close()
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the server does not end"
