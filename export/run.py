"""Continue a document with an exported model: `python -m export.run runs/demo/export --prompt "a snail" --out a.html`.

Texts and images are the document, in the order in which they are given. What is written appears as it is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, get_args

from export.formats import BACKENDS
from models.denoising_options import SchedulerName
from models.generation.options import GenerationOptions, Mode
from models.generation.prompts import PROMPTS
from models.program import run_program
from models.urls import local_path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 for a document that differs from PyTorch's, 2 for what cannot be
    run."""
    options = _parser().parse_args(arguments)
    from export.document import continue_document  # after the options, so that --help costs nothing

    return continue_document(options)


class _Segment(argparse.Action):
    """Texts and images in one list, in their order."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.document = [*namespace.document, ((option_string or "").removeprefix("--"), values)]


def _parser() -> argparse.ArgumentParser:
    usual = GenerationOptions()
    parser = argparse.ArgumentParser(prog="python -m export.run", description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=local_path, metavar="DIR", help="what python -m export.trt wrote")
    parser.set_defaults(document=[])
    parser.add_argument("--prompt", action=_Segment, metavar="TEXT", help="a text of the document; may be repeated")
    parser.add_argument("--image", action=_Segment, metavar="FILE", help="an image of it; may be repeated")
    parser.add_argument("--task", choices=sorted(PROMPTS), help="put the document into a ready prompt")
    parser.add_argument("--out", type=local_path, metavar="FILE", help="write document and result as .html, .png, ...")
    running = parser.add_argument_group("what runs it")
    running.add_argument(
        "--backend", choices=BACKENDS, default="ort", help="onnxruntime (default), PyTorch, TensorRT or RTX"
    )
    running.add_argument("--device", help="cpu or cuda; default: what the back end runs on")
    running.add_argument(
        "--model",
        type=local_path,
        metavar="MODEL_DIR",
        help="what was exported; for --backend torch and --torch-fallback",
    )
    running.add_argument(
        "--compare", type=local_path, metavar="MODEL_DIR", help="let PyTorch write the same, and fail if it differs"
    )
    writing = parser.add_argument_group("writing and drawing, as MMInterleaved.generate")
    writing.add_argument("--seed", type=int, default=0)
    writing.add_argument("--num-images", type=int, metavar="N", help=f"at most (default: {usual.max_new_images})")
    writing.add_argument("--mode", choices=get_args(Mode))
    writing.add_argument("--scheduler", choices=get_args(SchedulerName))
    for name in ("max_new_tokens", "num_inference_steps"):
        writing.add_argument(_flag(name), type=int, metavar="N", help=f"default: {getattr(usual, name)}")
    writing.add_argument("--temperature", type=float, metavar="X", help="default: 0, the likeliest token")
    for name in ("top_p", "guidance_scale", "image_guidance_scale"):
        writing.add_argument(_flag(name), type=float, metavar="X", help=f"default: {getattr(usual, name)}")
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    sys.exit(run_program(main))
