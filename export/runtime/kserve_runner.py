"""A component that a server of the KServe v2 protocol computes, such as Triton Inference Server with a repository that
`python -m export.trt --triton` wrote.

The protocol is KServe's Open Inference Protocol, version 2 (github.com/kserve/open-inference-protocol), with Triton's
extension for binary tensors (docs/protocol/extension_binary_data.md of triton-inference-server/server): a request is
JSON with shapes and types, and behind it the bytes of all inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import urllib3

from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors

DATA_TYPES = {
    torch.float32: "FP32",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}
"""The protocol's names."""

HEADER_LENGTH = "Inference-Header-Content-Length"
"""How many bytes of a body are JSON."""

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 300.0


class InferenceServerError(ConnectionError):
    """The server is not there, or did not compute what it was asked."""


class KServeRunner(ComponentRunner):
    """A component of a server; tensors are on the CPU here.

    Args:
        name: of the component, and of the server's model.
        inputs: its inputs.
        outputs: its outputs. None of them may update an input in place: nothing is shared with a server.
        url: of the server, "http://host:8000".

    Raises:
        ValueError: the component writes into its inputs, or the URL is none.
    """

    def __init__(self, name: str, inputs: Mapping[str, Port], outputs: Mapping[str, Port], url: str) -> None:
        super().__init__(name, inputs, outputs, torch.device("cpu"))
        if self.aliases:
            raise ValueError(f"{name} writes into its inputs, which a server cannot. Compute it in this process.")
        self.url = url.rstrip("/")
        try:
            scheme = urllib3.util.parse_url(self.url).scheme
        except urllib3.exceptions.LocationParseError:
            scheme = None
        if scheme not in ("http", "https"):
            raise ValueError(f"url is {url!r}; expected the server's, such as http://127.0.0.1:8000.")
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=urllib3.Retry(connect=2, read=0, redirect=0))

    def different_ports(self) -> list[str]:
        """The inputs and outputs that the server's model does not have, or has of another type or shape.

        Raises:
            InferenceServerError: it does not answer, or has no such model.
        """
        described = self._json(self._ask("GET", ""))
        different: set[str] = set()
        for kind, ports in (("input", self.inputs), ("output", self.outputs)):
            declared = {
                name: (DATA_TYPES[port.dtype], tuple(size if isinstance(size, int) else -1 for size in port.shape))
                for name, port in ports.items()
            }
            found = {
                str(one["name"]): (str(one["datatype"]), tuple(map(int, one["shape"])))
                for one in described.get(f"{kind}s", [])
            }
            different |= {f"{kind} {name!r}" for name, _ in declared.items() ^ found.items()}
        return sorted(different)

    def run(self, inputs: Tensors) -> Tensors:
        blobs = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in inputs.items()}
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "shape": list(tensor.shape),
                        "datatype": DATA_TYPES[tensor.dtype],
                        "parameters": {"binary_data_size": len(blobs[name])},
                    }
                    for name, tensor in inputs.items()
                ],
                "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in self.outputs],
            }
        ).encode()
        headers = {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        answer = self._ask("POST", "/infer", b"".join((header, *blobs.values())), headers)
        return self._outputs(answer, self.empty_outputs(inputs))

    def _outputs(self, answer: urllib3.BaseHTTPResponse, expected: Tensors) -> Tensors:
        """The tensors of an answer, which have to be those that were expected."""
        length = int(answer.headers.get(HEADER_LENGTH, len(answer.data)))
        described = self._json(answer, length).get("outputs", [])
        found: Tensors = {}
        place = length
        for one in described:
            size = int(one.get("parameters", {}).get("binary_data_size", -1))
            tensor = expected.get(one["name"])
            if tensor is None:
                raise self._failed(f"it answered with {one['name']!r}, which was not asked for")
            declared = DATA_TYPES[tensor.dtype], list(tensor.shape), tensor.nbytes
            if declared != (one["datatype"], one["shape"], size) or place + size > len(answer.data):
                raise self._failed(
                    f"{one['name']} is {one['datatype']} {one['shape']} of {size} bytes; expected {declared[0]} "
                    f"{declared[1]} of {declared[2]}"
                )
            if size:
                data = bytearray(answer.data[place : place + size])
                found[one["name"]] = torch.frombuffer(data, dtype=tensor.dtype).view(tensor.shape)
            else:
                found[one["name"]] = tensor
            place += size
        if lacking := sorted(expected.keys() - found.keys()):
            raise self._failed(f"it left out {', '.join(lacking)}")
        return found

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        try:
            answer = self._pool.request(method, f"{self.url}/v2/models/{self.name}{path}", body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise InferenceServerError(
                f"{self.url} does not answer for {self.name} ({type(error).__name__}). Start the server there, with a "
                "repository of python -m export.trt --triton, or name another url."
            ) from error
        if answer.status != 200:
            raise self._failed(f"status {answer.status}: {answer.data[:300].decode(errors='replace')!r}")
        return answer

    def _json(self, answer: urllib3.BaseHTTPResponse, length: int | None = None) -> dict[str, Any]:
        try:
            found = json.loads(answer.data[:length])
        except ValueError as error:
            raise self._failed("its answer is no JSON") from error
        if not isinstance(found, dict):
            raise self._failed("its answer is no JSON object")
        return found

    def _failed(self, why: str) -> InferenceServerError:
        return InferenceServerError(f"{self.url} did not compute {self.name}: {why}. The server's log may say more.")
