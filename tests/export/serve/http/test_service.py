"""How requests get from HTTP to an engine."""

from __future__ import annotations

import asyncio
import threading

import pytest

from export.serve.engine.handle import Handle
from export.serve.engine.interface import GenerationRequest, NeverFits, Request
from export.serve.errors import RequestError
from export.serve.http.service import Service
from export.serve.settings import Settings
from models import MMInterleaved
from models.generation.options import GenerationOptions
from scripted_engine import ScriptedEngine

PATIENCE_S = 60


def asked(text: str) -> GenerationRequest:
    return GenerationRequest(document=[text], options=GenerationOptions())


class SlowEngine(ScriptedEngine):
    """Takes its time to take a request, and refuses one."""

    def __init__(self) -> None:
        super().__init__(lambda _: iter(()))
        self.is_asked, self.go_on = threading.Event(), threading.Event()
        self.handles: list[Handle] = []

    def submit(self, request: Request) -> Handle:
        self.is_asked.set()
        assert self.go_on.wait(PATIENCE_S)
        if request.document == ["large"]:
            raise NeverFits("it needs 2 of 1 MiB")
        self.handles.append(Handle(request.id))
        return self.handles[-1]


def service_of(model: MMInterleaved, engine: SlowEngine) -> Service:
    service = Service(Settings(name="toy"))
    service.serve(model, engine)
    return service


def test_a_request_that_never_fits_is_refused_and_its_siblings_are_cancelled(toy: MMInterleaved) -> None:
    engine = SlowEngine()
    engine.go_on.set()
    service = service_of(toy, engine)
    with pytest.raises(RequestError, match="it needs 2 of 1 MiB") as caught:
        asyncio.run(service.begin("x", [asked("small"), asked("large")]))
    assert caught.value.status == 400
    assert [handle.cancel_reason for handle in engine.handles] == ["client"]
    assert service.runs == {}


def test_a_client_that_goes_while_its_request_is_taken_leaves_nothing(toy: MMInterleaved) -> None:
    engine = SlowEngine()
    service = service_of(toy, engine)

    async def gone() -> None:
        beginning = asyncio.ensure_future(service.begin("x", [asked("a"), asked("b")]))
        while not engine.is_asked.is_set():  # the loop is free meanwhile
            await asyncio.sleep(0.001)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        engine.go_on.set()
        while [handle.cancel_reason for handle in engine.handles] != ["client", "client"]:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(gone(), PATIENCE_S))
    assert service.runs == {}
