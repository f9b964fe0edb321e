"""Export a trained model: `python -m export.trt runs/demo/model --out runs/demo/export --stage build --builder rtx`.

Stage "onnx" writes one ONNX file per component (`export/components.py`), what a runtime needs beside them, and
`manifest.json`, after every component has been compared with PyTorch in onnxruntime on real inputs, and a generation
loop made of the files alone has written the same text and drawn the same pictures. If anything differs by more than
1e-4, the command says what and leaves nothing behind.

Stage "build" does the same first, unless it was done and nothing has changed since, and builds TensorRT engines from
the files. The manifest says of each engine what is known: whether it was built, executed and verified, and on what.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from export.assets import write_assets
from export.components import components_of
from export.end_to_end import check_generation
from export.engines import BuildOptions, EngineError, alone_in, build_engines
from export.fingerprint import digest_of, file_digest, sources_digest
from export.manifest import MANIFEST_FILE, component_entry, read_manifest, write_onnx_manifest
from export.manifest import PACKAGES as PACKAGES_OF_GRAPHS
from export.memory import gpu_bytes, memory_of, report
from export.onnx_graph import GraphError, to_onnx
from export.ort_model import ASSETS_DIR, ONNX_DIR, OrtModel
from export.parity import ParityError, check
from export.profiles import Limits
from export.real_inputs import real_cases
from export.samples import SAMPLES_DIR, Samples, load_samples
from mmfs.kernels.nvrtc import NvrtcError
from models import MMInterleaved
from plugins_trt.tensorrt_package import PACKAGES, MissingPackage, open_package

STAGES = ("onnx", "build")
SOURCES = (
    "mmfs/**/*.py",
    "models/**/*.py",
    "plugins_trt/onnx_*.py",
    "export/components.py",
    "export/onnx_graph.py",
    "export/assets.py",
    "export/noise_schedule.py",
)
"""Of our own files, what the graphs and assets depend on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 for an export that failed, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m export.trt", description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="what MMInterleaved.save_pretrained wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory, or an earlier export")
    parser.add_argument("--stage", choices=STAGES, default="onnx", help="how far to go (default: %(default)s)")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="pictures to check with, instead of MODEL_DIR/samples",
    )
    building = parser.add_argument_group("stage build")
    building.add_argument(
        "--builder", choices=PACKAGES, default="tensorrt", help="whose engines: TensorRT (default) or TensorRT-RTX"
    )
    for name, what in (
        ("--components", "which to build; default: all"),
        ("--torch-fallback", "components that get no engine, on purpose"),
        ("--function-fallback", "components whose mmfs nodes are built from standard operators instead of the plugin"),
    ):
        building.add_argument(name, type=_names, default=(), metavar="NAME,NAME", help=what)
    usual = Limits()
    for name, default, what in (
        ("--max-batch", usual.max_batch, "sequences, and pictures drawn, at once"),
        ("--max-tokens", usual.max_tokens, "new tokens of one call"),
        ("--max-past", usual.max_past, "rows of the key-value cache"),
        ("--max-images", usual.max_images, "pictures in the bank"),
    ):
        building.add_argument(name, type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    building.add_argument("--dynamic-unet", action="store_true", help="let the U-Net take fewer pictures than the most")
    planning = parser.add_argument_group("planning")
    planning.add_argument("--dry-run", action="store_true", help="write nothing; say how much memory it would take")
    planning.add_argument("--gpu-mem", type=float, metavar="GB", help="with --dry-run: fail if the GPU has less")
    options = parser.parse_args(arguments)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports each torchvision op that is not installed

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        limits = Limits(
            options.max_batch, options.max_tokens, options.max_past, options.max_images, options.dynamic_unet
        )
        if options.dry_run:
            return plan_memory(options.model, limits, gpu_gb=options.gpu_mem, say=say)
        if options.stage == "onnx":
            export_onnx(options.model, options.out, pictures=options.images, say=say)
            return 0
        build = BuildOptions(
            options.builder,
            limits,
            options.components,
            options.torch_fallback,
            options.function_fallback,
        )
        open_package(options.builder)  # before minutes are spent on graphs
        if is_up_to_date(options.out, options.model, options.images):
            say(f"{options.out} holds the graphs of this model")
        else:
            export_onnx(options.model, options.out, pictures=options.images, say=say)
        build_engines(options.out, build, say)
    except (GraphError, ParityError) as error:
        print(f"The export failed, and nothing was written to {options.out}. {error}", file=sys.stderr)
        return 1
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError, NvrtcError, MissingPackage) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def export_onnx(
    model_dir: Path, out: Path, *, pictures: Sequence[Path] = (), say: Callable[[str], None] = lambda _line: None
) -> None:
    """Export and check every component of the model in `model_dir`; `out` appears when all is proved.

    Args:
        model_dir: what `MMInterleaved.save_pretrained` wrote, with a processor.
        out: a directory that does not exist, is empty, or holds an earlier export, which is replaced.
        pictures: what to check with; empty: the samples beside the model.
        say: gets a line of progress now and then.

    Raises:
        FileNotFoundError: no model, or no picture, where one was named.
        FileExistsError: `out` holds something else.
        ValueError: the model has no processor, or the samples are not usable.
        GraphError, ParityError: the export would not be the model.
    """
    start = time.perf_counter()
    _check_free(out)
    key = onnx_key(model_dir, pictures)
    model = MMInterleaved.from_pretrained(model_dir)
    if model.processor is None:
        raise ValueError(f"{model_dir} holds no processor (tokenizer.json, processor.json); a runtime needs one.")
    samples = load_samples(model_dir, pictures)
    say(f"checking with {samples.source}")

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        root = Path(scratch) / out.name
        _write(model, root, key=key, model_dir=model_dir, samples=samples, say=say)
        if out.exists():
            with alone_in(out):
                out.rename(Path(scratch) / "earlier")
        root.rename(out)
    say(f"wrote {out} in {time.perf_counter() - start:.0f} s")


def plan_memory(model_dir: Path, limits: Limits, *, gpu_gb: float | None, say: Callable[[str], None]) -> int:
    """Say how much memory the model's components take; 2 if that is more than `gpu_gb` (10**9 bytes each), else 0."""
    model = MMInterleaved.from_pretrained(model_dir)
    memories = {name: memory_of(component, limits) for name, component in components_of(model).items()}
    for line in report(memories, limits):
        say(line)
    needed = gpu_bytes(memories) / 1e9
    if gpu_gb is None or needed <= gpu_gb:
        return 0
    print(
        f"The engines take {needed:.3f} GB, and the GPU has {gpu_gb:.3f}. Lower --max-batch, --max-past or "
        "--max-images, or leave components to another GPU with --components.",
        file=sys.stderr,
    )
    return 2


def onnx_key(model_dir: Path, pictures: Sequence[Path] = ()) -> str:
    """Digest of everything that stage "onnx" depends on: the model with its samples, packages, and our own sources."""
    files = [*model_dir.glob("*.json"), *model_dir.glob("*.safetensors"), *(model_dir / SAMPLES_DIR).glob("*")]
    return digest_of(
        {
            "model": sorted((file.relative_to(model_dir).as_posix(), file_digest(file)) for file in files),
            "pictures": [file_digest(picture) for picture in pictures if picture.is_file()],
            "packages": {package: version(package) for package in PACKAGES_OF_GRAPHS},
            "sources": sources_digest(SOURCES),
        }
    )


def is_up_to_date(out: Path, model_dir: Path, pictures: Sequence[Path] = ()) -> bool:
    """Whether `out` holds what stage "onnx" would write."""
    return (out / MANIFEST_FILE).is_file() and read_manifest(out).get("key") == onnx_key(model_dir, pictures)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(filter(None, listed.split(",")))


def _write(
    model: MMInterleaved, root: Path, *, key: str, model_dir: Path, samples: Samples, say: Callable[[str], None]
) -> None:
    (root / ONNX_DIR).mkdir(parents=True)
    components = components_of(model)
    cases = real_cases(model, components, samples.documents)
    entries = {}
    for number, (name, component) in enumerate(components.items(), start=1):
        say(f"[{number}/{len(components)}] {name} ...")
        graph = to_onnx(component)
        file = root / ONNX_DIR / f"{name}.onnx"
        file.write_bytes(graph.proto.SerializeToString())
        results = check(component, file, cases[name])
        entries[name] = component_entry(component, graph, file, results, root=root)
        ops = "".join(f", {count} mmfs::{op}" for op, count in graph.num_mmfs_nodes.items())
        say(
            f"      {graph.num_nodes} nodes{ops}; {file.stat().st_size / 1e6:.1f} MB in {graph.seconds:.0f} s; "
            f"{len(results)} cases, largest relative error {max(result.worst for result in results):.1e}"
        )
    assets = write_assets(model, root / ASSETS_DIR)
    say("writing and drawing with the files alone ...")
    generation = check_generation(model, OrtModel(root), samples.documents)
    say(
        f"      {len(generation.texts)} texts equal; {generation.num_pictures} pictures, largest difference "
        f"{generation.largest_level_difference} of 255 levels"
    )
    write_onnx_manifest(
        root,
        key=key,
        model_dir=model_dir,
        components=entries,
        assets=assets,
        samples=samples.source,
        generation=generation,
    )


def _check_free(out: Path) -> None:
    if not out.exists() or (out.is_dir() and ((out / MANIFEST_FILE).is_file() or not any(out.iterdir()))):
        return
    raise FileExistsError(f"{out} exists and is no earlier export. Name another directory, or remove it.")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the unfinished directory goes
    sys.exit(main())
