"""The options of `python -m export.trt`."""

from __future__ import annotations

import argparse
from typing import Any

from export.components.profiles import Limits
from export.formats import DEFAULT_KV_CACHE, KV_CACHE_LAYOUTS, PRECISIONS, SERVED_KINDS, WEIGHTS, ServedKind
from models.urls import local_path
from plugins_trt.kinds import PLUGIN_KINDS
from plugins_trt.tensorrt_package import PACKAGES

GRAPH_STAGES = ("onnx", "lower", "validate")
STAGES = (*GRAPH_STAGES, "build", "bench")
USUAL_BUILDER = "tensorrt"
USUAL_KIND: ServedKind = "onnx"
"""Of what a model repository holds."""


def command_line(description: str) -> argparse.ArgumentParser:
    """The options of the command; checks each option on its own."""
    parser = argparse.ArgumentParser(prog="python -m export.trt", description=description)
    parser.add_argument("model", type=local_path, metavar="MODEL_DIR", help="what MMInterleaved.save_pretrained wrote")
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="a new directory, or an earlier export"
    )
    parser.add_argument(
        "--stage",
        choices=STAGES,
        help="how far to go, in order: onnx traces, lower gives KV-cache layout and precision, validate compares "
        "with PyTorch, after which DIR is there; then build makes engines, or bench times the files (default: "
        "validate; with --builder: build)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of products and what is between them; norms, softmax, angles, gates and sampling locations stay float32 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--llm-weights",
        choices=WEIGHTS,
        default="same",
        help="how the language model keeps the matrices of attention and feed-forward: in the precision of the export, "
        "or in eight bits with a scale per output channel: about half of what float16 takes (default: %(default)s)",
    )
    parser.add_argument(
        "--kv-cache",
        choices=KV_CACHE_LAYOUTS,
        default=DEFAULT_KV_CACHE,
        help="how the language model keeps its cache. trt_split: it reads the cache, and the new rows come out; any "
        "TensorRT and any onnxruntime. trt_native: TensorScatter writes in place, Attention reads, --max-past rows; "
        "ort: the same for any number of rows, without engines (default: %(default)s)",
    )
    parser.add_argument("--flavour", action=_Renamed, new_name="--kv-cache", help=argparse.SUPPRESS)
    parser.add_argument(
        "--sampling-locations",
        action="store_true",
        help="let the graphs with MMFS also say what it asks of the op, so that generate(..., sampling_locations=True) "
        "tells where the exported model looked",
    )
    parser.add_argument(
        "--few-layers", type=int, metavar="N", help="only the first layers of the language model: a trial"
    )
    for name, what in (
        (
            "--components",
            "which to export, compare with PyTorch and build; --dry-run lists them; default: all. Those that DIR holds "
            "already stay",
        ),
        ("--torch-fallback", "components that get neither graph nor engine, on purpose: PyTorch computes them"),
    ):
        parser.add_argument(name, type=_names, default=(), metavar="NAME,NAME", help=what)
    parser.add_argument(
        "--images",
        type=local_path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="images to check with, instead of MODEL_DIR/samples",
    )
    building = parser.add_argument_group(
        "stage build", "The sizes count for --dry-run too; --max-past also for the graphs of --kv-cache trt_native."
    )
    building.add_argument(
        "--builder",
        choices=PACKAGES,
        help=f"whose engines: TensorRT or TensorRT-RTX, which builds without a GPU (default: {USUAL_BUILDER})",
    )
    building.add_argument(
        "--function-fallback",
        type=_names,
        default=(),
        metavar="NAME,NAME",
        help="components whose mmfs nodes are built from standard operators instead of the plugin",
    )
    building.add_argument(
        "--plugin",
        choices=PLUGIN_KINDS,
        help="how mmfs's kernels get into an engine. aot: as TensorRT's ahead-of-time plugins, and nothing is needed "
        "to load it; python: as plugins in Python, which a program that loads it has to register too; library: with "
        "--plugin-library (default: aot for TensorRT, python for TensorRT-RTX)",
    )
    building.add_argument(
        "--plugin-library", type=local_path, metavar="FILE", help="the C++ plugin, which then is inside of the engines"
    )
    usual = Limits()
    for name, default, what in (
        ("--max-batch", usual.max_batch, "sequences, and images drawn, at once"),
        ("--max-tokens", usual.max_tokens, "new tokens of one call"),
        ("--max-past", usual.max_past, "rows of the key-value cache"),
        ("--max-images", usual.max_images, "images in the bank"),
    ):
        building.add_argument(name, type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    building.add_argument("--dynamic-unet", action="store_true", help="let the U-Net take fewer images than those, too")
    serving = parser.add_argument_group("serving")
    serving.add_argument(
        "--triton", type=local_path, metavar="DIR", help="write a model repository of Triton Inference Server"
    )
    serving.add_argument(
        "--triton-kind",
        choices=SERVED_KINDS,
        help=f"whether it holds the graphs or TensorRT's engines (default: {USUAL_KIND})",
    )
    planning = parser.add_argument_group("planning")
    planning.add_argument("--dry-run", action="store_true", help="write nothing; say how much memory it would take")
    planning.add_argument("--gpu-mem", type=float, metavar="GB", help="with --dry-run: fail if the GPU has less")
    return parser


class _Renamed(argparse.Action):
    """An option that had another name in earlier versions."""

    def __init__(self, *args: Any, new_name: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.new_name = new_name

    def __call__(self, parser: argparse.ArgumentParser, *_args: Any) -> None:
        """Refuse it."""
        parser.error(f"{self.option_strings[0]} is called {self.new_name} now.")


def _names(listed: str) -> tuple[str, ...]:
    return tuple(filter(None, listed.split(",")))
