"""Export a trained model: `python -m export.trt runs/demo/model --out runs/demo/onnx`.

Stage "onnx" writes one ONNX file per component (`export/components.py`), what a runtime needs beside them, and
`manifest.json`, after every component has been compared with PyTorch in onnxruntime on real inputs, and a generation
loop made of the files alone has written the same text and drawn the same pictures. If anything differs by more than
1e-4, the command says what and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from export.assets import write_assets
from export.components import components_of
from export.end_to_end import check_generation
from export.manifest import MANIFEST_FILE, component_entry, write_manifest
from export.onnx_graph import GraphError, to_onnx
from export.ort_model import ASSETS_DIR, ONNX_DIR, OrtModel
from export.parity import ParityError, check
from export.real_inputs import real_cases
from export.samples import Samples, load_samples
from models import MMInterleaved

STAGES = ("onnx",)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 for an export that failed, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m export.trt", description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="what MMInterleaved.save_pretrained wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory, or an earlier export")
    parser.add_argument("--stage", default="onnx", help="how far to go; so far there is: onnx")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="pictures to check with, instead of MODEL_DIR/samples",
    )
    options = parser.parse_args(arguments)
    if options.stage not in STAGES:
        parser.error(f"there is no stage {options.stage!r} yet; what exists is {', '.join(STAGES)}.")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports each torchvision op that is not installed
    try:
        export_onnx(options.model, options.out, pictures=options.images, say=lambda line: print(line, flush=True))
    except (GraphError, ParityError) as error:
        print(f"The export failed, and nothing was written to {options.out}. {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
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
    model = MMInterleaved.from_pretrained(model_dir)
    if model.processor is None:
        raise ValueError(f"{model_dir} holds no processor (tokenizer.json, processor.json); a runtime needs one.")
    samples = load_samples(model_dir, pictures)
    say(f"checking with {samples.source}")

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        root = Path(scratch) / out.name
        _write(model, root, model_dir=model_dir, samples=samples, say=say)
        if out.exists():
            out.rename(Path(scratch) / "earlier")
        root.rename(out)
    say(f"wrote {out} in {time.perf_counter() - start:.0f} s")


def _write(model: MMInterleaved, root: Path, *, model_dir: Path, samples: Samples, say: Callable[[str], None]) -> None:
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
    write_manifest(
        root, model_dir=model_dir, components=entries, assets=assets, samples=samples.source, generation=generation
    )


def _check_free(out: Path) -> None:
    if not out.exists() or (out.is_dir() and ((out / MANIFEST_FILE).is_file() or not any(out.iterdir()))):
        return
    raise FileExistsError(f"{out} exists and is no earlier export. Name another directory, or remove it.")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the unfinished directory goes
    sys.exit(main())
