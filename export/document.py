"""A document that an exported model continues: what `python -m export.run` does once its options are read."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from export.engine.compatibility import BUILDERS
from export.runtime import Session
from export.runtime.onnxruntime_runner import who_computes
from export.runtime.runners import exported_model
from export.runtime.tensorrt_runner import TensorRTError, TensorRTRunner
from export.validate.end_to_end import LEAST_PSNR_DB, compare, psnrs
from export.validate.seed_sensitivity import TWICE_DB, own_psnr_db, step_error_of
from export.verified import record_run
from models import MMInterleaved
from models.atomic_files import write_atomically
from models.generation.documents import Segment
from models.generation.generated import Generated
from models.generation.options import GenerationOptions
from models.images.image_file import open_image
from models.output_file import check_output_file
from models.program import explained
from models.write_errors import writing
from plugins_trt.tensorrt_package import MissingPackage, open_package

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def continue_document(options: argparse.Namespace) -> int:
    """Do what the command line of `export.run` asks for.

    Returns:
        The exit status: 0, 1 for a document that differs from PyTorch's, 2 for what cannot be run.
    """
    try:
        return _run(options)
    except (OSError, ValueError, MissingPackage, TensorRTError) as error:
        print(explained(error), file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.out is not None and options.out.suffix not in (".html", *IMAGE_SUFFIXES):
        raise ValueError(f"--out is {options.out}. Expected a name that ends in .html, {', '.join(IMAGE_SUFFIXES)}.")
    if options.out is not None:
        check_output_file("--out", options.out)
    asked: dict[str, Any] = {"seed": options.seed}
    asked |= {name: value for name in _ASKED if (value := getattr(options, name)) is not None}
    if options.num_images is not None:
        asked["max_new_images"] = options.num_images
    GenerationOptions.of(asked)  # refused before the work
    asked["task"] = options.task
    document = [open_image(Path(given)) if kind == "image" else given for kind, given in options.document]
    checkpoint = options.compare or options.model
    model = None if checkpoint is None else exported_model(options.directory, checkpoint)
    given = model if options.model is not None else None
    session = Session.open(options.directory, options.backend, model=given, device=options.device)

    start = time.perf_counter()
    written = _stream(session, document, asked)
    seconds = time.perf_counter() - start
    print(f"({', '.join(filter(None, (options.backend, who_computes(session.runners.values()))))}: {seconds:.1f} s)")
    if options.out is not None:
        if options.out.suffix == ".html":
            write_atomically(options.out, written.to_html())
        else:
            with writing(options.out):
                written.to_image().save(options.out)
        print(f"wrote {options.out}")
    if options.compare is None:
        return 0
    assert model is not None
    return _compare(options, session, model, document, written, asked)


def _stream(session: Session, document: list[Segment], asked: dict[str, Any]) -> Generated:
    """Generate, and print text as soon as it is certain."""
    written = Generated(document)
    for event in session.generate_stream(document, **asked):
        written.add(event)
        if isinstance(event, str):
            print(event, end="", flush=True)
        elif isinstance(event, Image.Image):
            print(f"\n[image of {event.width} x {event.height}]", flush=True)
    print()
    return written


def _compare(
    options: argparse.Namespace,
    session: Session,
    model: MMInterleaved,
    document: list[Segment],
    written: Generated,
    asked: dict[str, Any],
) -> int:
    """Compare with what PyTorch generates; 1 if it differs. For engines, the result is entered into the manifest."""
    start = time.perf_counter()
    expected = model.generate(document, **asked)
    seconds = time.perf_counter() - start
    difference = compare(expected, written)
    own = ""
    if difference is not None and compare(expected, written, least_psnr_db=0.0) is None:  # the words are the same
        step_error = step_error_of(options.directory)
        own_db = own_psnr_db(model, document, asked, expected, step_error) if step_error else None
        if own_db is not None:
            difference = compare(expected, written, least_psnr_db=min(LEAST_PSNR_DB, own_db - TWICE_DB))
            own = f"; PyTorch's own, with each step off by {step_error:.1e} as the file's is, have {own_db:.0f} dB"
    ran = [name for name, runner in session.runners.items() if isinstance(runner, TensorRTRunner)]
    if ran:
        version = open_package(BUILDERS[options.backend]).__version__
        on = torch.cuda.get_device_name()
        record_run(options.directory, f"{BUILDERS[options.backend]}-{version}", ran, on, difference)
    if difference is not None:
        print(f"not equal: {difference}{own}", file=sys.stderr)
        return 1
    ratios = psnrs(expected, written)
    worst = f"; images with a PSNR of at least {min(ratios):.0f} dB" if ratios else ""
    print(f"equal to PyTorch ({seconds:.1f} s): the same text{worst}{own}")
    return 0


_ASKED = (
    "mode",
    "max_new_tokens",
    "temperature",
    "top_p",
    "num_inference_steps",
    "guidance_scale",
    "image_guidance_scale",
    "scheduler",
)
"""Options of the command that are `GenerationOptions`, with the same defaults."""
