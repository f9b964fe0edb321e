"""Serve a model: `python -m export.serve trainer/weights/toy`, then open http://127.0.0.1:8000 in a browser.

Clients of OpenAI's interface use it unchanged: base_url="http://127.0.0.1:8000/v1". docs/serving.md says more.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from export.formats import SERVED_BACKENDS
from models.program import explained, run_program
from models.urls import local_path

DTYPES = ("float32", "float16", "bfloat16", "auto")
KEY_VARIABLE = "MMFS_API_KEY"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parser().parse_args(arguments)
    from export.serve.command import run  # after the options, so that --help costs nothing

    try:
        return run(options, os.environ.get(KEY_VARIABLE))
    except ValueError as error:
        print(explained(error), file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m export.serve",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    parser.add_argument(
        "directory",
        type=local_path,
        metavar="MODEL_OR_EXPORT",
        help="a model's directory, or an export of one",
    )
    running = parser.add_argument_group("what runs it")
    running.add_argument(
        "--backend",
        choices=SERVED_BACKENDS,
        default="auto",
        help="PyTorch, onnxruntime, TensorRT or RTX; auto: PyTorch for a model's directory, for an export its engines, "
        "where they can run here, else onnxruntime (default); triton: a server for what is large of an export",
    )
    running.add_argument(
        "--triton-url", metavar="URL", help="of that server, which has the repository of export.trt --triton"
    )
    running.add_argument(
        "--model",
        type=local_path,
        metavar="MODEL_DIR",
        help="what was exported, where PyTorch computes some of an export",
    )
    running.add_argument("--device", help="cpu or cuda; default: a GPU if there is one that the back end can use")
    running.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of a model that PyTorch computes (default: %(default)s)"
    )
    _add_reach(parser)
    _add_limits(parser)
    return parser


def _add_reach(parser: argparse.ArgumentParser) -> None:
    reach = parser.add_argument_group("who reaches it")
    reach.add_argument("--host", default="127.0.0.1", help="where it listens (default: %(default)s, for this machine)")
    reach.add_argument("--port", type=int, default=8000, metavar="N", help="0: any free one (default: %(default)s)")
    reach.add_argument("--name", help="of the model, for clients (default: the directory's name)")
    reach.add_argument("--public-url", metavar="URL", help="under which clients reach it through a proxy")
    reach.add_argument(
        "--api-key-file",
        type=local_path,
        metavar="FILE",
        help=f"a key on each line, or a name and a key; or set {KEY_VARIABLE}. Beyond this machine a key is demanded",
    )
    reach.add_argument("--no-auth", action="store_true", help="let everybody who reaches it ask")
    for name, metavar, what in (
        ("--allow-host", "NAME", "another name under which it may be asked"),
        ("--cors", "ORIGIN", "a page elsewhere that may ask: https://host"),
        ("--allow-image-host", "HOST", "a host from which images in requests are fetched; default: none"),
    ):
        reach.add_argument(name, action="append", default=[], metavar=metavar, help=f"{what}; may be repeated")
    reach.add_argument("--template", choices=("document", "chat"), help="what stands around turns (default: document)")
    reach.add_argument("--log-prompts", action="store_true", help="write what clients ask into the log")
    reach.add_argument("--share-cache", action="store_true", help="let one client's prompt make another's faster")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    from export.serve.engine.limits import MIB, EngineLimits

    limits = parser.add_argument_group("limits")
    usual = EngineLimits()
    seconds, count, mib = ("SECONDS", float), ("N", int), ("MIB", float)
    for name, (metavar, kind), default, what in (
        ("--max-running", count, usual.max_running, "requests computed together"),
        ("--max-queued", count, usual.max_queued, "requests that wait; more are answered with 429"),
        ("--queue-timeout", seconds, usual.queue_timeout, "that a request waits; then 503"),
        ("--timeout", seconds, 600.0, "that a request may take in all"),
        ("--client-timeout", seconds, 60.0, "that a client may take to send or read a piece"),
        ("--grace", seconds, 30.0, "that requests under way have when the server stops"),
        ("--keep", seconds, 3600.0, "that drawn images and stored responses are kept"),
        ("--max-body", mib, 32.0, "of a request"),
        ("--max-image", mib, 10.0, "of an image's file"),
        ("--max-images", count, 16, "images in a request"),
        ("--max-new-tokens", count, 4096, "that a request may ask for"),
        ("--cache-memory", mib, usual.cache_bytes / MIB, "of documents that were read and wait for their next turn"),
        ("--max-kept", mib, 256.0, "of drawn images, and as much of stored responses"),
    ):
        limits.add_argument(name, type=kind, default=default, metavar=metavar, help=f"{what} (default: {default:g})")
    limits.add_argument(
        "--memory",
        type=float,
        metavar="MIB",
        help="that documents computed together may take, by forecast; default: any",
    )


if __name__ == "__main__":
    logging.captureWarnings(True)
    sys.exit(run_program(main))
