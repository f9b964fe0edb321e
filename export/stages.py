"""Stages "onnx" and "lower": a model becomes graphs, and graphs take their precision. The third is
`export/validate/validate.py`.

    onnx      neutral/NAME.onnx   each component traced, in float32
    lower     onnx/NAME.onnx      in the flavour and precision that were asked for
    validate  manifest.json       everything compared with PyTorch, and assets/

They work in a folder beside the target, which takes its place when all is proved. What is done there stays when the
process ends, however it ends, and each file says what it depends on: the next call goes on where this one stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import onnx

from export.atomic_files import write_atomically
from export.graph.components import components_of
from export.graph.external_data import write_weights
from export.graph.kv_cache import DEFAULT_KV_CACHE, KVCacheLayout, lower_attention
from export.graph.meta_model import open_meta_model
from export.graph.onnx_graph import to_onnx
from export.graph.precision import Precision, lower_precision, precision_of
from export.graph.quantization import Weights, weights_of, write_quantized
from export.graph.truncate import keep_few_layers
from export.process.fingerprint import digest_of, file_digest, sources_digest
from export.process.progress import Checking
from export.store.manifest import ONNX_DIR
from export.store.manifest import PACKAGES as PACKAGES_OF_GRAPHS
from export.store.samples import SAMPLES_DIR
from export.store.selection import ComponentSelection
from models import MMInterleaved

NEUTRAL_DIR = "neutral"
JOB_FILE = "job.json"
GRAPH_SOURCES = (
    "mmfs/**/*.py",
    "models/**/*.py",
    "plugins_trt/onnx_*.py",
    "export/graph/components.py",
    "export/graph/cached_attention.py",
    "export/graph/onnx_graph.py",
    "export/graph/meta_model.py",
    "export/graph/external_data.py",
    "export/graph/truncate.py",
)
"""Of our own files, what the neutral graphs depend on."""

LOWERING_SOURCES = tuple(
    f"export/graph/{name}.py"
    for name in ("kv_cache", "precision", "float32_nodes", "opset", "external_data", "quantization")
)
PROOF_SOURCES = ("export/**/*.py",)

Log = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What is exported, and how."""

    model_dir: str
    work: str
    """The folder in which the export grows."""

    earlier: str
    """An earlier export, whose traced graphs may serve again; it need not exist."""

    graph_key: str
    """Digest of everything that stage "onnx" depends on: the model, packages, and our own sources."""

    key: str
    """Digest of everything that the finished export depends on, samples and pictures included."""

    pictures: tuple[str, ...] = ()
    precision: Precision = "float32"
    few_layers: int | None = None
    flavour: KVCacheLayout = DEFAULT_KV_CACHE
    capacity: int | None = None
    """Rows of a cache of fixed size; None: the flavour takes any number."""

    choice: ComponentSelection = field(default_factory=ComponentSelection)
    """Which components; no part of the keys, so that an export can grow."""

    llm_weights: Weights = "same"

    @classmethod
    def of(
        cls,
        model_dir: Path,
        work: Path,
        earlier: Path,
        *,
        pictures: Sequence[Path] = (),
        precision: Precision = "float32",
        few_layers: int | None = None,
        flavour: KVCacheLayout = DEFAULT_KV_CACHE,
        capacity: int | None = None,
        choice: ComponentSelection | None = None,
        llm_weights: Weights = "same",
        say: Log = lambda line: None,
    ) -> Job:
        """With its digests; reads every file of the model once, and says how far it is."""
        files = sorted([*model_dir.glob("*.json"), *model_dir.glob("*.safetensors")])
        heard = Checking(str(model_dir), files, say)
        graph_key = digest_of(
            {
                "model": [(file.name, file_digest(file, heard)) for file in files],
                "few_layers": few_layers,
                "packages": {package: version(package) for package in PACKAGES_OF_GRAPHS},
                "sources": sources_digest(GRAPH_SOURCES),
            }
        )
        samples = sorted((model_dir / SAMPLES_DIR).glob("*"))
        key = digest_of(
            {
                "graphs": graph_key,
                "precision": precision,
                "llm_weights": llm_weights,
                "flavour": [flavour, capacity],
                "samples": [(file.name, file_digest(file)) for file in samples],
                "pictures": [file_digest(picture) for picture in pictures if picture.is_file()],
                "sources": sources_digest((*LOWERING_SOURCES, *PROOF_SOURCES)),
            }
        )
        return cls(
            str(model_dir),
            str(work),
            str(earlier),
            graph_key,
            key,
            tuple(map(str, pictures)),
            precision,
            few_layers,
            flavour,
            capacity,
            choice or ComponentSelection(),
            llm_weights,
        )

    def save(self) -> Path:
        """Into its folder, for the processes of the stages."""
        file = Path(self.work) / JOB_FILE
        file.write_text(json.dumps(asdict(self)))
        return file

    @classmethod
    def load(cls, file: Path) -> Job:
        """What `save` wrote."""
        values = json.loads(file.read_text())
        choice = ComponentSelection(**{name: tuple(names) for name, names in values["choice"].items()})
        return cls(**{**values, "pictures": tuple(values["pictures"]), "choice": choice})


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
        keep_few_layers(model, job.few_layers)
    return model


def trace(job: Job, say: Log) -> None:
    """Stage "onnx": every component that is asked for as a float32 graph.

    Raises:
        GraphError: a component did not become the graph that was declared.
        ValueError: a component is named that the model does not have.
    """
    folder = Path(job.work) / NEUTRAL_DIR
    folder.mkdir(exist_ok=True)
    model, stored = open_meta_model(Path(job.model_dir))
    all_components = components_of(_complete(job, model))
    components = {name: all_components[name] for name in job.choice.among(all_components)}
    _leave_only(components, folder)
    for number, (name, component) in enumerate(components.items(), start=1):
        head = f"[{number}/{len(components)}] {name}"
        file = folder / f"{name}.onnx"
        if _has_key(file, job.graph_key):
            say(f"{head}: traced before")
            continue
        earlier = Path(job.earlier) / NEUTRAL_DIR / file.name
        if _has_key(earlier, job.graph_key):
            shutil.copyfile(earlier, file)
            _set_key(file, job.graph_key)
            say(f"{head}: as in the earlier export")
            continue
        say(f"{head} ...")
        graph = to_onnx(component, stored)
        _write(file, graph.proto, job.graph_key)
        ops = "".join(f", {count} mmfs::{op}" for op, count in graph.num_mmfs_nodes.items())
        say(f"      {graph.num_nodes} nodes{ops}; {file.stat().st_size / 1e6:.1f} MB in {graph.seconds:.0f} s")


def lower(job: Job, say: Log) -> None:
    """Stage "lower": each graph in its flavour and precision.

    Raises:
        GraphError: a graph that cannot be lowered, or that has lost an island of float32.
    """
    folder = Path(job.work) / ONNX_DIR
    folder.mkdir(exist_ok=True)
    files = sorted((Path(job.work) / NEUTRAL_DIR).glob("*.onnx"))
    _leave_only([file.stem for file in files], folder)
    for number, neutral in enumerate(files, start=1):
        name = neutral.stem
        precision, weights = precision_of(name, job.precision), weights_of(name, job.llm_weights)
        head = f"[{number}/{len(files)}] {name}"
        how = [precision, weights, job.flavour, job.capacity]
        # The graph alone does not say which numbers it points to.
        key = digest_of([job.graph_key, file_digest(neutral), *how, sources_digest(LOWERING_SOURCES)])
        if _has_key(folder / neutral.name, key):
            say(f"{head}: lowered before")
            continue
        flavoured = lower_attention(onnx.load(neutral, load_external_data=False), job.flavour, job.capacity)
        proto = lower_precision(flavoured, precision)
        if weights == "same":
            write_weights(proto, Path(job.model_dir), folder / f"{name}.data")
        else:
            write_quantized(proto, weights, precision, Path(job.model_dir), folder / f"{name}.data")
        _write(folder / neutral.name, proto, key)
        say(f"{head}: {precision}{'' if weights == 'same' else f', large weights {weights}'}")


def _leave_only(names: Collection[str], folder: Path) -> None:
    """Remove what an earlier job, which asked for other components, left."""
    for end in ("onnx", "data", "key"):
        for file in folder.glob(f"*.{end}"):
            if file.stem not in names:
                file.unlink()


def _write(file: Path, proto: onnx.ModelProto, key: str) -> None:
    write_atomically(file, proto.SerializeToString())
    _set_key(file, key)


def _set_key(file: Path, key: str) -> None:
    """Say what a finished file depends on, and what it is: a file that was damaged since has no key."""
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
