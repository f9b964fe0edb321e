"""Stages "onnx" and "lower": a model becomes graphs, and graphs get their precision. The third is
`export/validate/validate.py`.

    onnx      neutral/NAME.onnx   each component traced, in float32
    lower     onnx/NAME.onnx      in the KV-cache layout and precision that were asked for
    validate  manifest.json       everything compared with PyTorch, and assets/

They work in a folder beside the target, which replaces the target when everything agrees with PyTorch. Finished files
are kept when the process ends, in whatever way, and each has a key of what it depends on: the next call continues where
this one stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import onnx

from export.components.all import components_of
from export.graph.external_data import write_weights
from export.graph.kv_cache import lower_attention
from export.graph.meta_model import open_meta_model
from export.graph.onnx_graph import to_onnx
from export.graph.precision import lower_precision, precision_of
from export.graph.quantization import weights_of, write_quantized
from export.graph.truncate import truncate_layers
from export.process.fingerprint import digest_of, file_digest
from export.process.progress import Log
from export.process.source_digest import modules_digest
from export.store.job import LOWERING_MODULES, NEUTRAL_DIR, Job
from export.store.manifest import ONNX_DIR
from models import MMInterleaved
from models.atomic_files import write_atomically
from models.write_errors import writing


def open_model(job: Job) -> MMInterleaved:
    """The model with as many layers as are asked for.

    Raises:
        FileNotFoundError, ValueError: there is no such model, or it has no processor.
    """
    return _complete(job, MMInterleaved.from_pretrained(job.model_dir))


def _complete(job: Job, model: MMInterleaved) -> MMInterleaved:
    if model.processor is None:
        raise ValueError(f"{job.model_dir} holds no processor (tokenizer.json, processor.json); a runtime needs one.")
    if job.few_layers is not None:
        truncate_layers(model, job.few_layers)
    return model


def trace(job: Job, log: Log) -> None:
    """Stage "onnx": every component that is asked for as a float32 graph.

    Raises:
        GraphError: a component did not become the graph that was declared.
        ValueError: a component is named that the model does not have.
    """
    folder = Path(job.work) / NEUTRAL_DIR
    folder.mkdir(exist_ok=True)
    model, stored = open_meta_model(Path(job.model_dir))
    all_components = components_of(_complete(job, model), sampling_locations=job.sampling_locations)
    components = {name: all_components[name] for name in job.selection.among(all_components)}
    _leave_only(components, folder)
    for number, (name, component) in enumerate(components.items(), start=1):
        head = f"[{number}/{len(components)}] {name}"
        file = folder / f"{name}.onnx"
        if _has_key(file, job.graph_key):
            log(f"{head}: traced before")
            continue
        earlier = Path(job.earlier) / NEUTRAL_DIR / file.name
        if _has_key(earlier, job.graph_key):
            with writing(file, earlier.stat().st_size):
                shutil.copyfile(earlier, file)
            _set_key(file, job.graph_key)
            log(f"{head}: as in the earlier export")
            continue
        log(f"{head} ...")
        graph = to_onnx(component, stored)
        _write(file, graph.proto, job.graph_key)
        ops = "".join(f", {count} mmfs::{op}" for op, count in graph.num_mmfs_nodes.items())
        log(f"      {graph.num_nodes} nodes{ops}; {file.stat().st_size / 1e6:.1f} MB in {graph.seconds:.0f} s")


def lower(job: Job, log: Log) -> None:
    """Stage "lower": each graph in its KV-cache layout and precision.

    Raises:
        GraphError: a graph that cannot be lowered, or that has lost a float32 node.
    """
    folder = Path(job.work) / ONNX_DIR
    folder.mkdir(exist_ok=True)
    files = sorted((Path(job.work) / NEUTRAL_DIR).glob("*.onnx"))
    _leave_only([file.stem for file in files], folder)
    for number, neutral in enumerate(files, start=1):
        name = neutral.stem
        precision, weights = precision_of(name, job.precision), weights_of(name, job.llm_weights)
        head = f"[{number}/{len(files)}] {name}"
        how = [precision, weights, job.kv_cache, job.capacity]
        # The graph alone does not determine the numbers that it points to.
        key = digest_of([job.graph_key, file_digest(neutral), *how, modules_digest(LOWERING_MODULES)])
        if _has_key(folder / neutral.name, key):
            log(f"{head}: lowered before")
            continue
        as_exported = lower_attention(onnx.load(neutral, load_external_data=False), job.kv_cache, job.capacity)
        proto = lower_precision(as_exported, precision)
        if weights == "same":
            write_weights(proto, Path(job.model_dir), folder / f"{name}.data")
        else:
            write_quantized(proto, weights, precision, Path(job.model_dir), folder / f"{name}.data")
        _write(folder / neutral.name, proto, key)
        log(f"{head}: {precision}{'' if weights == 'same' else f', large weights {weights}'}")


def _leave_only(names: Collection[str], folder: Path) -> None:
    """Remove the files of an earlier job for other components."""
    for end in ("onnx", "data", "key"):
        for file in folder.glob(f"*.{end}"):
            if file.stem not in names:
                file.unlink()


def _write(file: Path, proto: onnx.ModelProto, key: str) -> None:
    write_atomically(file, proto.SerializeToString())
    _set_key(file, key)


def _set_key(file: Path, key: str) -> None:
    """Write the key of a finished file and its digest, by which later damage is found."""
    write_atomically(file.with_suffix(".key"), json.dumps({"key": key, "sha256": _digests(file)}))


def _has_key(file: Path, key: str) -> bool:
    try:
        kept = json.loads(file.with_suffix(".key").read_text())
        return bool(kept == {"key": key, "sha256": _digests(file)})
    except (FileNotFoundError, ValueError):
        return False


def _digests(file: Path) -> list[str]:
    """Of a graph and, where there are some, its weights."""
    return [file_digest(one) for one in (file, file.with_suffix(".data")) if one.is_file()]
