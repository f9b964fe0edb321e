"""Storage on ports of this machine: S3 as moto has it, and a web server that is slow or fails as it is told. For tests
and benchmarks.

An S3 server is asked through the second one (`serving(behind=...)`) where requests are counted or made to fail.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key-of-a-test", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test"}


@dataclass
class Request:
    method: str
    path: str
    has_range: bool


@dataclass
class WebStorage:
    """What the server holds, what it was asked, and what goes wrong."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    """HTML for paths that end with a slash; else such a page links to the files below it."""

    requests: list[Request] = field(default_factory=list)
    num_bytes_sent: int = 0
    latency: float = 0.0
    """Seconds before each answer."""

    fault: Callable[[Request, int], int | str | None] = lambda request, number: None
    """Asked for each request, with the number of those before it that had this method and path: a status to answer
    with, "cut" for a body that ends in the middle, or None for a right answer."""

    def gets(self) -> Counter[str]:
        return Counter(request.path for request in self.requests if request.method == "GET")


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of what went wrong, unless a client is gone: tests kill some."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(behind: str | None = None) -> Iterator[WebStorage]:
    """A server of `WebStorage.files`, or of what the server at `behind` answers."""
    storage = WebStorage()
    lock = threading.Lock()
    seen: Counter[tuple[str, str]] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def respond(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            length = headers.pop("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command == "HEAD":
                return
            sent = body[: len(body) // 2] if cut else body
            with lock:
                storage.num_bytes_sent += len(sent)
            self.wfile.write(sent)
            if cut:
                self.wfile.flush()
                self.close_connection = True

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            data = self.rfile.read(length) if length else b""
            path = unquote(urlsplit(self.path).path)
            request = Request(self.command, path, "Range" in self.headers)
            with lock:
                number = seen[request.method, path]
                seen[request.method, path] += 1
                storage.requests.append(request)
            if storage.latency:
                time.sleep(storage.latency)
            fault = storage.fault(request, number)
            if isinstance(fault, int):
                self.respond(fault, {}, b"")
            elif behind is None:
                self.from_files(path, cut=fault == "cut")
            else:
                self.from_behind(behind, data, cut=fault == "cut")

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

        def from_files(self, path: str, *, cut: bool) -> None:
            if path.endswith("/"):
                names = [name for name in storage.files if name.startswith(path)]
                page = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
                page = storage.pages.get(path, page)
                self.respond(200, {"Content-Type": "text/html"}, page.encode())
                return
            body = storage.files.get(path)
            if body is None:
                self.respond(404, {}, b"")
                return
            headers = {"Accept-Ranges": "bytes", "ETag": f'"{hashlib.md5(body).hexdigest()}"'}
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if found is None:
                self.respond(200, headers, body, cut=cut)
                return
            start, end = int(found[1]), min(int(found[2] or len(body) - 1), len(body) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            self.respond(206, headers, body[start : end + 1], cut=cut)

        def from_behind(self, server: str, data: bytes, *, cut: bool) -> None:
            connection = http.client.HTTPConnection(urlsplit(server).netloc)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, data, headers)
                answer = connection.getresponse()
                body = answer.read()
                kept = {
                    name: value
                    for name, value in answer.getheaders()
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server")
                }
                if self.command == "HEAD":
                    kept["Content-Length"] = answer.getheader("Content-Length", "0")
                self.respond(answer.status, kept, body, cut=cut)
            finally:
                connection.close()

    server = _QuietServer(("127.0.0.1", 0), Handler)
    storage.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield storage
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Bucket:
    """A bucket of a moto server, which s3:// leads to meanwhile."""

    url: str
    endpoint: str
    client: Any

    def put(self, name: str, body: bytes) -> str:
        self.client.put_object(Bucket=urlsplit(self.url).netloc, Key=name, Body=body)
        return f"{self.url}/{name}"

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=urlsplit(self.url).netloc, Key=name)

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=urlsplit(self.url).netloc)
        return [one["Key"] for one in found.get("Contents", [])]


@contextmanager
def s3_bucket(name: str = "bucket") -> Iterator[Bucket]:
    """An empty bucket on a server of its own. Sets the environment variables by which the aws libraries, also of
    programs that are started meanwhile, find server and credentials."""
    pytest.importorskip("moto", reason="moto, an S3 server for tests, is not installed: pip install moto[s3] flask")
    import boto3  # type: ignore[import-untyped]
    import s3fs  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it tells of each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(variable, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        _forget_everything(host, port)
        client.create_bucket(Bucket=name)
        s3fs.S3FileSystem.clear_instance_cache()  # one that is kept asks the server of an earlier test
        try:
            yield Bucket(f"s3://{name}", endpoint, client)
        finally:
            client.close()
            server.stop()


def _forget_everything(host: str, port: int) -> None:
    """moto keeps what an earlier server of this process was given."""
    connection = http.client.HTTPConnection(host, port)
    connection.request("POST", "/moto-api/reset")
    assert connection.getresponse().status == 200
    connection.close()
