"""The process: listens at once, loads the model meanwhile, and stops without dropping what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from export.serve.http.app import make_app
from export.serve.http.keys import Keys
from export.serve.http.service import Service
from export.serve.settings import Settings
from models.program import explained

EXIT_WITHOUT_MODEL = 2
SECONDS_TO_TELL = 5
"""That connections have, once everything is cancelled, to send what they have."""

SILENCE_SECONDS, PROBE_SECONDS, NUM_PROBES = 60, 15, 4
"""After which a peer that says nothing is asked whether it is there, how often, and how many times."""


def serve(settings: Settings, keys: Keys, load: Callable[[Service], None], on_line: Callable[[str], None]) -> int:
    """Run a server until a signal ends it.

    Args:
        settings: how it is set up.
        keys: who may ask.
        load: loads the model and hands it to the service; runs in a thread of its own, while /health answers 503.
        on_line: gets what a person at the terminal wants to know.

    Returns:
        The exit code: 0 after SIGTERM or SIGINT, `EXIT_WITHOUT_MODEL` if the model could not be loaded.
    """
    service = Service(settings)
    with _listen(settings) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            make_app(service, keys),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=SECONDS_TO_TELL,
        )
        server = _Server(config, service)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        on_line(f"http://{host}:{port} answers; {settings.name} is being loaded ...")
        begin = time.monotonic()

        def load_and_tell() -> None:
            try:
                load(service)
            except Exception as error:
                server.load_error = error
                server.should_exit = True
            else:
                on_line(f"{settings.name} is ready after {time.monotonic() - begin:.1f} s: http://{host}:{port}")

        threading.Thread(target=load_and_tell, name="load", daemon=True).start()
        server.run([listener])
    if server.load_error is not None:
        print(explained(server.load_error), file=sys.stderr)
        return EXIT_WITHOUT_MODEL
    return 0


def _listen(settings: Settings) -> socket.socket:
    """A socket on which peers that are gone are noticed."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", SILENCE_SECONDS),
            ("TCP_KEEPINTVL", PROBE_SECONDS),
            ("TCP_KEEPCNT", NUM_PROBES),
            ("TCP_USER_TIMEOUT", round(1000 * settings.client_timeout)),  # for what was sent and is not taken
        ):
            if hasattr(socket, name):  # Linux has all of them
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        listener.bind((settings.host, settings.port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, f"{settings.host}:{settings.port}") from error
    return listener


class _Server(uvicorn.Server):
    """Goes on listening, with 503 for what is new, until all that is under way has ended or its time is over."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.load_error: Exception | None = None
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks to stop; a second one does not wait."""
        if self._stop_at is None:
            self.service.is_stopping = True
            self._stop_at = time.monotonic() + self.service.settings.grace
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        may_end = not self.service.runs or (self._stop_at is not None and time.monotonic() >= self._stop_at)
        if self._stop_at is not None and not self.should_exit and may_end:
            await asyncio.to_thread(self.service.close)
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """When all has been said."""
        await super().shutdown(sockets)
        with contextlib.suppress(RuntimeError):
            await asyncio.to_thread(self.service.close)
