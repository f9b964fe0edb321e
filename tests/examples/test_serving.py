"""examples/serving/: several servers behind Debian's nginx, with the configuration that is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from live_server import PATIENCE_S, Address, request_bytes, rest_of
from server_process import ServerProcess, served

CONFIGURATION = Path(__file__).parents[2] / "examples/serving/nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
CHAT = "/v1/chat/completions"
MAIN = """
daemon off;
pid {root}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    include {root}/mmfs.conf;
}}
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed. On Debian and Ubuntu: apt install nginx-light"),
]


@dataclass(frozen=True)
class Cluster:
    """A proxy and what is behind it."""

    proxy: Address
    servers: tuple[ServerProcess, ServerProcess]

    def say(self, conversation: str, messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """The answer to a turn."""
        body = {"messages": messages, "modalities": ["text"], "max_tokens": 4, **options}
        answer = self.proxy.ask("POST", CHAT, body, {"X-Conversation": conversation})
        assert answer.status == 200, answer.body
        return answer.json

    def server_of(self, conversation: str) -> int:
        """Which server a conversation goes to: the one whose answers are one more after a turn."""
        before = [num_answers(server) for server in self.servers]
        self.say(conversation, [{"role": "user", "content": "which"}], max_tokens=1)
        (grown,) = [i for i, server in enumerate(self.servers) if num_answers(server) > before[i]]
        return grown


def num_answers(server: ServerProcess) -> float:
    return server.counter("e2e_request_latency_seconds_count")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two servers behind the configuration that is shown, with their ports in it."""
    tmp_path = tmp_path_factory.mktemp("nginx")
    with served() as first, served() as second:
        port, text = free_port(), CONFIGURATION.read_text()
        for shown, used in (("listen 80;", port), ("127.0.0.1:8001;", first.port), ("127.0.0.1:8002;", second.port)):
            assert text.count(shown) == 1
            text = text.replace(shown, re.sub(r"\d+;$", f"{used};", shown))
        (tmp_path / "mmfs.conf").write_text(text)
        (tmp_path / "nginx.conf").write_text(MAIN.format(root=tmp_path))
        assert NGINX is not None
        process = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
        try:
            proxy = Address(port)
            proxy.wait_until(lambda: answers(proxy, process))
            yield Cluster(proxy, (first, second))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def answers(proxy: Address, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "nginx does not start"
    try:
        return proxy.ask("GET", "/live").status == 200
    except ConnectionRefusedError:
        return False


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def cached(answer: dict[str, Any]) -> int:
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_what_one_server_keeps_is_found_from_everywhere(cluster: Cluster):
    """Stored responses, images by digest, and answers under way, without a word of where they are."""
    names: dict[int, str] = {}
    for number in range(64):
        names.setdefault(cluster.server_of(f"{number}"), f"{number}")
    assert set(names) == {0, 1}
    for name in names.values():
        here = {"X-Conversation": name}
        first = cluster.proxy.ask("POST", "/v1/responses", {"input": "this is", "max_output_tokens": 4}, here).json
        going_on = {"input": " and", "previous_response_id": first["id"], "max_output_tokens": 4}
        second = cluster.proxy.ask("POST", "/v1/responses", going_on)
        assert second.status == 200, second.body
        assert second.json["previous_response_id"] == first["id"]
        drawing = {"prompt": "a snail", "response_format": "url", "mmfs": {"num_inference_steps": 2}}
        url = cluster.proxy.ask("POST", "/v1/images/generations", drawing, here).json["data"][0]["url"]
        path = url[url.index("/v1/") :]
        assert cluster.proxy.ask("GET", path).body.startswith(b"\x89PNG")
        about = [user("x"), {"role": "assistant", "content": f"![image 1]({url})"}, user(" a photo of")]
        answer = cluster.proxy.ask("POST", CHAT, {"messages": about, "modalities": ["text"], "max_tokens": 2})
        assert answer.status == 200, answer.body
        assert answer.json["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    missing = cluster.proxy.ask("GET", f"/v1/mmfs/images/{64 * '0'}.png")
    assert missing.status == 404
    assert missing.error["message"].startswith("This image is not kept")


def test_streams_pass_as_they_come_and_end_with_their_client(cluster: Cluster):
    drawing = {"messages": [user("a snail")], "modalities": ["image"], "stream": True}
    drawing["mmfs"] = {"num_inference_steps": 900}
    with cluster.proxy.connect() as connection:
        connection.sendall(request_bytes("POST", CHAT, drawing))
        pieces = [connection.recv(1 << 16) for _ in range(31)]
        # Of a buffer of nginx, each would have 4096 bytes or more; an event has some 300.
        assert statistics.median(map(len, pieces)) < 1500, "events waited for others"
        received = b"".join(pieces)
        id = json.loads(re.search(rb"data: (\{.*\})", received)[1])["id"]  # type: ignore[index]
        assert cluster.proxy.ask("DELETE", f"/v1/mmfs/requests/{id}", headers={"X-Conversation": "other"}).status == 200
        received += rest_of(connection)
    assert b'"finish": "cancelled"' in received
    with cluster.proxy.connect() as connection:
        connection.sendall(request_bytes("POST", CHAT, drawing))
        received = b""
        while b'"progress"' not in received:
            received += connection.recv(1 << 16)
    cluster.proxy.wait_until(lambda: any(server.counter('cancelled_total{why="client"}') for server in cluster.servers))


def test_conversations_stay_at_a_server_and_survive_it(cluster: Cluster):
    """The last test here: it kills a server."""
    histories: dict[str, list[dict[str, Any]]] = {}
    homes: dict[str, int] = {}
    for number in range(64):  # until both have some
        name = f"conversation {number}"
        homes[name] = cluster.server_of(name)
        histories[name] = [user(f"{number} snails left of a rocket and")]
        if number >= 5 and len(set(homes.values())) == 2:
            break
    assert set(homes.values()) == {0, 1}

    def turn() -> dict[str, int]:
        """Every conversation goes on by a turn; how many tokens of each were kept."""
        kept = {}
        for name, history in histories.items():
            answer = cluster.say(name, history)
            history += [answer["choices"][0]["message"], user(" and then")]
            kept[name] = cached(answer)
        return kept

    assert set(turn().values()) == {0}
    assert all(turn().values()), "a conversation went to a server that does not know it"
    cluster.servers[0].process.kill()
    cluster.servers[0].process.wait(PATIENCE_S)
    moved = turn()
    assert {name: kept > 0 for name, kept in moved.items()} == {name: home == 1 for name, home in homes.items()}
    assert all(turn().values()), "the other server does not go on with what it took over"
