"""What `python -m export.serve` does once its options are read."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from urllib.parse import urlsplit

from export.serve.content.loading import ContentLimits
from export.serve.engine.batching import BatchingEngine
from export.serve.engine.limits import MIB, EngineLimits
from export.serve.http.guard import LOG, origin_of
from export.serve.http.hosts import is_loopback
from export.serve.http.keys import Keys, checked_key, read_keys
from export.serve.http.server import serve
from export.serve.http.service import Service
from export.serve.opening import Source, backend_of, open_model
from export.serve.protocol.options import OptionLimits
from export.serve.settings import Settings
from models.number_options import real_number, whole_number


def run(options: argparse.Namespace, key: str | None) -> int:
    """Serve until a signal comes.

    Args:
        options: of the command line.
        key: from the environment.

    Returns:
        The exit code.

    Raises:
        ValueError: an option outside of its range, a key that is none, or no key where one is demanded.
    """
    settings = settings_of(options)
    keys = keys_of(options, key)
    source = Source(
        options.directory, options.backend, options.model, options.device, options.dtype, options.triton_url
    )
    backend_of(source)  # refused before the server is there
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.INFO)

    def load(service: Service) -> None:
        model = open_model(source)
        service.serve(model, BatchingEngine(model, settings.engine))

    return serve(settings, keys, load, lambda line: print(line, flush=True))


def keys_of(options: argparse.Namespace, key: str | None) -> Keys:
    """Who may ask.

    Raises:
        ValueError: nobody said, and others than this machine could ask.
    """
    keys = read_keys(options.api_key_file) if options.api_key_file is not None else {}
    if key:
        keys["environment"] = checked_key(key, "MMFS_API_KEY")
    if keys and options.no_auth:
        raise ValueError("--no-auth lets everybody ask, and there are keys too. Give one of them.")
    if not keys and not options.no_auth and not is_loopback(options.host):
        raise ValueError(
            f"--host {options.host} lets other machines ask. Give --api-key-file FILE or set MMFS_API_KEY; or let "
            "everybody ask with --no-auth."
        )
    return Keys(keys)


def settings_of(options: argparse.Namespace) -> Settings:
    """The command line, checked.

    Raises:
        ValueError: an option outside of its range.
    """
    if options.public_url is not None:
        address = urlsplit(options.public_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"--public-url is {options.public_url!r}; expected https://host or https://host/path.")
    seconds = {
        name: real_number(_flag(name), getattr(options, name), above=0, most=1e6)
        for name in ("timeout", "client_timeout", "queue_timeout", "keep")
    }
    counts = {
        name: whole_number(_flag(name), getattr(options, name), least=1)
        for name in ("max_running", "max_queued", "max_images", "max_new_tokens")
    }
    num_bytes = {
        name: round(MIB * real_number(_flag(name), getattr(options, name), above=0, most=1e6))
        for name in ("max_body", "max_image", "max_kept")
    }
    directory: Path = options.directory
    return Settings(
        name=options.name or directory.resolve().name,
        host=options.host,
        port=whole_number("--port", options.port, least=0, most=65535),
        public_url=options.public_url and options.public_url.rstrip("/"),
        allowed_hosts=tuple(options.allow_host),
        allowed_origins=tuple(map(origin_of, options.cors)),
        image_hosts=tuple(options.allow_image_host),
        template=options.template or "document",
        timeout=seconds["timeout"],
        client_timeout=seconds["client_timeout"],
        grace=real_number("--grace", options.grace, least=0, most=1e6),
        keep=seconds["keep"],
        max_body_bytes=num_bytes["max_body"],
        max_kept_bytes=num_bytes["max_kept"],
        log_prompts=options.log_prompts,
        share_cache=options.share_cache,
        engine=EngineLimits(
            max_running=counts["max_running"],
            max_queued=counts["max_queued"],
            queue_timeout=seconds["queue_timeout"],
            cache_bytes=round(MIB * real_number("--cache-memory", options.cache_memory, least=0, most=1e9)),
            memory_bytes=None
            if options.memory is None
            else round(MIB * real_number("--memory", options.memory, above=0, most=1e9)),
        ),
        options=OptionLimits(max_new_tokens=counts["max_new_tokens"]),
        content=ContentLimits(max_images=counts["max_images"], max_image_bytes=num_bytes["max_image"]),
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
