"""What strangers send to the server: bodies, images, hosts and keys."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from PIL import Image

from export.serve.content.fetching import Fetcher, is_public
from export.serve.content.loading import ContentLimits
from export.serve.engine.limits import EngineLimits
from export.serve.http.keys import Keys, read_keys
from export.serve.http.service import Service
from export.serve.settings import Settings
from live_server import LiveServer, live, request_bytes
from models import MMInterleaved
from scripted_engine import ScriptedEngine, said, without_end
from server_process import ROOT, TOY

CHAT = "/v1/chat/completions"
BOMB_SIDE = 12_000


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    return MMInterleaved.from_pretrained(TOY)


@pytest.fixture(scope="module")
def server(model: MMInterleaved) -> Iterator[LiveServer]:
    with live(Service(Settings(name="toy")), model, ScriptedEngine(said("yes"))) as running:
        yield running


def bomb() -> bytes:
    """A PNG of 144 million pixels, in 140 KB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = packer.compress(bytes(BOMB_SIDE * (BOMB_SIDE + 1))) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_image(data: bytes, media_type: str = "image/png") -> dict:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]}


def small_png() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return file.getvalue()


def test_a_bomb_is_refused_by_its_header(server: LiveServer):
    data = bomb()
    assert len(data) < 150_000
    answer = server.ask("POST", CHAT, with_image(data))
    assert answer.status == 422
    assert "12000 x 12000 pixels" in answer.error["message"] or "decompression bomb" in answer.error["message"]
    assert answer.error["param"] == "messages[0].content[0].image_url"


def test_a_bomb_takes_no_memory(tmp_path: Path):
    """In a process of its own, whose peak is known."""
    (tmp_path / "bomb.png").write_bytes(bomb())
    program = """
import base64, resource, sys, time, warnings
from export.serve.content.fetching import Fetcher
from export.serve.content.kept import Kept
from export.serve.content.loading import ContentLimits, DocumentLoader
from export.serve.content.references import ImageReference
from export.serve.errors import RequestError
warnings.simplefilter("ignore")
loader = DocumentLoader(ContentLimits(), 64, Kept(1, 1), Fetcher())
url = "data:image/png;base64," + base64.b64encode(open(sys.argv[1], "rb").read()).decode()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, begin = peak(), time.perf_counter()
try:
    loader.load([ImageReference(url, "here")])
except RequestError as error:
    print(error.status, peak() - before, 1000 * (time.perf_counter() - begin))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.png")], cwd=ROOT, capture_output=True, text=True
    )
    status, kib, _ = ran.stdout.split()
    assert status == "422", ran.stderr
    assert int(kib) <= 20 * 1024


@pytest.mark.parametrize(
    ("data", "media_type", "words"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>', "image/svg+xml", "expected one of JPEG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/png", "cannot be decoded"),
        (small_png()[:900], "image/png", "cannot be decoded"),
        (b"", "image/png", "cannot be decoded"),
        (b"%PDF-1.7", "application/octet-stream", "cannot be decoded"),
    ],
    ids=["svg", "svg as png", "truncated", "empty", "pdf"],
)
def test_what_is_no_image_is_refused(server: LiveServer, data: bytes, media_type: str, words: str):
    answer = server.ask("POST", CHAT, with_image(data, media_type))
    assert (answer.status, answer.error["param"]) == (422, "messages[0].content[0].image_url")
    assert words in answer.error["message"]


def test_sizes_and_numbers_are_bounded(server: LiveServer):
    limits = ContentLimits()
    image = with_image(small_png())["messages"][0]["content"][0]
    many_images = {"messages": [{"role": "user", "content": [image] * (limits.max_images + 1)}]}
    answer = server.ask("POST", CHAT, many_images)
    assert (answer.status, answer.error["param"]) == (400, f"messages[0].content[{limits.max_images}].image_url")
    text = {"type": "text", "text": "a"}
    answer = server.ask("POST", CHAT, {"messages": [{"role": "user", "content": [text] * 10_000}]})
    assert answer.status == 400
    assert "10000 parts" in answer.error["message"]
    large = "A" * (4 * limits.max_image_bytes // 3 + 8)
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{large}"}}
    answer = server.ask("POST", CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert answer.status == 413


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 32"),
        (b"[" * 5_000_000, "nested deeper"),
        (b'{"a": [' + b"0," * 200_000 + b"0]}", "more than 100000 values"),
        (b'{"seed": ' + b"9" * 100_000 + b"}", "has 100000 digits"),
        (b'{"temperature": 1e999}', "too large"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"model": "a", "model": "b"}', "'model' twice"),
        (b'{"model": "\xff"}', "no UTF-8"),
        (b'{"model": "a"', "no JSON"),
        (b'["model"]', "expected an object"),
        (b"", "no JSON"),
    ],
    ids=["deep", "deeper", "values", "digits", "infinite", "nan", "twice", "bytes", "cut", "list", "empty"],
)
def test_what_is_no_json_of_ours_is_refused(server: LiveServer, body: bytes, words: str):
    answer = server.ask("POST", CHAT, body)
    assert answer.status == 400
    assert words in answer.error["message"]


def test_a_lone_surrogate_is_the_client_s_mistake(model: MMInterleaved):
    from export.serve.engine.batching import BatchingEngine

    with live(Service(Settings(name="toy")), model, BatchingEngine(model, EngineLimits())) as server:
        body = json.dumps({"messages": [{"role": "user", "content": "a \ud800"}]}).encode()
        answer = server.ask("POST", CHAT, body)
        assert answer.status == 400, answer.body
        assert "surrogate" in answer.error["message"]


def test_bodies_have_a_type_and_a_size(server: LiveServer):
    body = json.dumps({"messages": []}).encode()
    plain = server.ask("POST", CHAT, body, {"Content-Type": "text/plain"})
    assert plain.status == 415  # what a form of any page in a browser could send
    most = server.service.settings.max_body_bytes
    declared = server.ask("POST", CHAT, b"", {"Content-Length": str(most + 1)})
    assert declared.status == 413
    with server.connect() as connection:
        head = request_bytes("POST", CHAT, None, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        connection.sendall(head)
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        with pytest.raises(OSError):  # noqa: PT012
            for _ in range(most // (1 << 20) + 64):
                connection.sendall(chunk)
            raise OSError("all of it was taken")
        with contextlib.suppress(ConnectionError):  # the answer is lost with what was still on its way
            assert b" 413 " in connection.recv(100)
    assert server.ask("GET", "/live").status == 200


def test_only_own_names_are_answered(server: LiveServer):
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", "", "[::1"):
        answer = server.ask("GET", "/v1/models", headers={"Host": host})
        assert answer.status in (400, 421), host
    for host in ("localhost", "localhost:9", "127.0.0.1", "192.168.0.7:80", "[::1]:80"):
        assert server.ask("GET", "/v1/models", headers={"Host": host}).status == 200, host


def test_pages_elsewhere_may_ask_only_if_they_were_named(model: MMInterleaved, server: LiveServer):
    preflight = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    refused = server.ask("OPTIONS", CHAT, headers=preflight)
    assert "access-control-allow-origin" not in refused.headers
    settings = Settings(name="toy", allowed_origins=("https://page.example",))
    with live(Service(settings), model, ScriptedEngine(said("yes"))) as other:
        allowed = other.ask("OPTIONS", CHAT, headers=preflight)
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (204, "https://page.example")
        assert "access-control-allow-origin" not in other.ask("GET", "/v1/models", headers={"Origin": "null"}).headers


def test_a_key_is_demanded_where_there_is_one(model: MMInterleaved, tmp_path: Path):
    (tmp_path / "keys").write_text("# staff\nanna anna-secret-1\nsecond-secret\n")
    keys = Keys(read_keys(tmp_path / "keys"))
    with live(Service(Settings(name="toy")), model, ScriptedEngine(said("yes")), keys) as server:
        for path in ("/v1/models", "/metrics", "/v1/mmfs/props"):
            assert server.ask("GET", path).status == 401
        for path in ("/health", "/live"):
            assert server.ask("GET", path).status == 200
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="anna-secret-2").models.list()
        assert server.client(api_key="anna-secret-1").models.list().data
        assert server.ask("GET", "/v1/models", headers={"Authorization": "Basic anna-secret-1"}).status == 401
        assert server.ask("GET", "/v1/models", headers={"Authorization": "Bearer \xe9\xe9"}).status == 401
        mine = server.client(api_key="anna-secret-1").responses.create(model="toy", input="a")
        with pytest.raises(openai.NotFoundError):
            server.client(api_key="second-secret").responses.retrieve(mine.id)


def test_a_full_queue_is_told_and_openai_python_comes_back(model: MMInterleaved):
    engine = ScriptedEngine(without_end(), places=1)
    with live(Service(Settings(name="toy")), model, engine) as server:
        body = {"messages": [{"role": "user", "content": "a"}], "stream": True}
        with server.connect() as first:
            first.sendall(request_bytes("POST", CHAT, body))
            first.recv(100)
            refused = server.ask("POST", CHAT, {**body, "n": 1})
            assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")
            assert refused.headers["retry-after"] == "1"
            counters = server.ask("GET", "/metrics").body.decode()
            assert 'mmfs:admission_rejections_total{reason="queue_full"} 1.0' in counters
        server.wait_until(lambda: engine.stats().num_running == 0)
        engine.script = said("yes")
        engine.places = 0
        client = server.client(max_retries=2)

        def make_room_at_the_second_try(*_: object) -> None:
            engine.places = 1

        server.service.metrics.rejections.labels("queue_full").inc = make_room_at_the_second_try
        asked = client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "a"}])
        assert asked.choices[0].message.content == "yes"


def test_a_full_queue_is_told_before_the_body_is_sent(model: MMInterleaved):
    engine = ScriptedEngine(said("yes"))
    service = Service(Settings(name="toy"))
    with live(service, model, engine) as server, server.connect() as connection:
        engine.num_waiting = service.settings.engine.max_queued
        head = request_bytes("POST", CHAT, None, {"Content-Type": "application/json", "Content-Length": "30000000"})
        connection.sendall(head)
        assert b" 429 " in connection.recv(100)


def test_images_elsewhere_are_fetched_from_allowed_public_hosts_only():
    from export.serve.content.references import ImageReference
    from export.serve.errors import RequestError

    def refusal(url: str, fetcher: Fetcher) -> RequestError:
        with pytest.raises(RequestError) as caught:
            fetcher.fetch(ImageReference(url, "here"), 1 << 20)
        return caught.value

    asked: list[str] = []
    fetcher = Fetcher(["pictures.example"], resolve=lambda host, port: asked.append(host) or ["10.0.0.1"])
    assert refusal("https://other.example/a.png", fetcher).status == 400
    assert refusal("https://pictures.example@evil.example/a.png", fetcher).status == 400
    assert refusal("https://pictures.example:444/a.png", fetcher).status == 400
    assert asked == []
    assert "not public" in str(refusal("https://pictures.example/a.png", fetcher))
    mixed = Fetcher(["pictures.example"], resolve=lambda host, port: ["93.184.215.14", "127.0.0.1"])
    assert "not public" in str(refusal("https://pictures.example/a.png", mixed))
    private = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1")
    assert not any(map(is_public, private))
    assert is_public("93.184.215.14")


def test_fetching_follows_nothing_and_takes_no_more_than_it_may(model: MMInterleaved):
    """From a server of this machine, which is allowed here on purpose."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    png = small_png()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1/secret")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png if self.path == "/a.png" else b"x" * (11 << 20))

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        host = f"pictures.example:{other.server_port}"
        fetcher = Fetcher([host], resolve=lambda name, port: ["127.0.0.1"], allows=lambda ip: True)
        seen: list[object] = []
        engine = ScriptedEngine(lambda request: seen.append(request) or iter(["yes"]))
        with live(Service(Settings(name="toy"), fetcher), model, engine) as server:
            statuses = {}
            for name in ("a.png", "away", "large"):
                part = {"type": "image_url", "image_url": {"url": f"http://{host}/{name}"}}
                answer = server.ask("POST", CHAT, {"messages": [{"role": "user", "content": [part]}]})
                statuses[name] = answer.status
        other.shutdown()
    assert statuses == {"a.png": 200, "away": 422, "large": 413}
    assert seen[0].document[0].size == (64, 64)
