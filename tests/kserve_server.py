"""A stand-in for Triton: answers version 2 of the Open Inference Protocol over HTTP from a repository that
`export.triton` wrote, with onnxruntime. It takes nothing that the protocol does not say."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HEADER_LENGTH = "Inference-Header-Content-Length"
NUMPY_TYPES = {"FP32": np.float32, "FP16": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}

Edit = Callable[[dict[str, Any]], object]
"""Changes the JSON of an answer, to see what is made of it."""


class Repository:
    """The models in a folder; `config.pbtxt` says what they are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.num_calls: dict[str, int] = {}
        self.edit: Edit | None = None

    def metadata(self, name: str) -> dict[str, Any]:
        """As `GET /v2/models/NAME` tells it."""
        text = (self.root / name / "config.pbtxt").read_text()
        found: dict[str, Any] = {"name": name, "versions": ["1"], "platform": "onnxruntime_onnx"}
        for kind in ("input", "output"):
            blocks = re.findall(kind + r" \{\n  name: \"(.*)\"\n  data_type: TYPE_(\w+)\n  dims: \[ (.*) \]\n\}", text)
            found[f"{kind}s"] = [
                {"name": port, "datatype": dtype, "shape": [int(size) for size in dims.split(",") if size]}
                for port, dtype, dims in blocks
            ]
        return found

    def infer(self, name: str, body: bytes, length: int) -> bytes:
        """The body of an answer, whose JSON has the length that stands before its first zero byte.

        Raises:
            AssertionError: the request is not as the protocol says.
        """
        request = json.loads(body[:length])
        declared = {one["name"]: one for one in self.metadata(name)["inputs"]}
        assert [one["name"] for one in request["inputs"]] == list(declared)
        feeds, place = {}, length
        for one in request["inputs"]:
            port, size = declared[one["name"]], one["parameters"]["binary_data_size"]
            dtype = NUMPY_TYPES[port["datatype"]]
            assert one["datatype"] == port["datatype"]
            assert all(fixed in (-1, here) for fixed, here in zip(port["shape"], one["shape"], strict=True))
            assert size == math.prod(one["shape"]) * np.dtype(dtype).itemsize
            feeds[one["name"]] = np.frombuffer(body[place : place + size], dtype).reshape(one["shape"])
            place += size
        assert place == len(body)
        if name not in self.sessions:
            self.sessions[name] = onnxruntime.InferenceSession(str(self.root / name / "1/model.onnx"))
        self.num_calls[name] = self.num_calls.get(name, 0) + 1
        names = [one["name"] for one in request["outputs"]]
        found = self.sessions[name].run(names, feeds)
        types = {one["name"]: one["datatype"] for one in self.metadata(name)["outputs"]}
        answer: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": []}
        for output, array in zip(names, found, strict=True):
            size = {"binary_data_size": array.nbytes}
            answer["outputs"].append(
                {"name": output, "datatype": types[output], "shape": list(array.shape), "parameters": size}
            )
        if self.edit is not None:
            self.edit(answer)
        header = json.dumps(answer).encode()
        return header + b"\0" + b"".join(array.tobytes() for array in found)


@contextmanager
def serving(repository: Repository) -> Iterator[str]:
    """The URL of a server, until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.removeprefix("/v2/models/")
            if (repository.root / name).is_dir():
                self.answer(200, json.dumps(repository.metadata(name)).encode())
            else:
                self.answer(404, b'{"error":"Request for unknown model"}')

        def do_POST(self) -> None:
            name = self.path.removeprefix("/v2/models/").removesuffix("/infer")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                header, _, data = repository.infer(name, body, int(self.headers[HEADER_LENGTH])).partition(b"\0")
            except Exception as error:
                self.answer(400, json.dumps({"error": repr(error)}).encode())
            else:
                self.answer(200, header + data, {HEADER_LENGTH: str(len(header))})

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
