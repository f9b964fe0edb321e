"""What is exported, how, and the digests of everything that this depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from export.graph.kv_cache import DEFAULT_KV_CACHE, KVCacheLayout
from export.graph.precision import Precision
from export.graph.quantization import Weights
from export.process.fingerprint import digest_of, file_digest, sources_digest
from export.process.progress import Log, ReadProgress
from export.store.manifest import PACKAGES as PACKAGES_OF_GRAPHS
from export.store.samples import SAMPLES_DIR
from export.store.selection import ComponentSelection

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
VALIDATION_SOURCES = ("export/**/*.py",)


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
    """Digest of everything that the finished export depends on, samples and images included."""

    images: tuple[str, ...] = ()
    precision: Precision = "float32"
    few_layers: int | None = None
    kv_cache: KVCacheLayout = DEFAULT_KV_CACHE
    capacity: int | None = None
    """Rows of a cache of fixed size; None: the KV-cache layout takes any number."""

    selection: ComponentSelection = field(default_factory=ComponentSelection)
    """Which components; no part of the keys, so that an export can grow."""

    llm_weights: Weights = "same"

    @classmethod
    def of(
        cls,
        model_dir: Path,
        work: Path,
        earlier: Path,
        *,
        images: Sequence[Path] = (),
        precision: Precision = "float32",
        few_layers: int | None = None,
        kv_cache: KVCacheLayout = DEFAULT_KV_CACHE,
        capacity: int | None = None,
        selection: ComponentSelection | None = None,
        llm_weights: Weights = "same",
        log: Log = lambda line: None,
    ) -> Job:
        """With its digests; reads every file of the model once, and says how far it is."""
        files = sorted([*model_dir.glob("*.json"), *model_dir.glob("*.safetensors")])
        on_bytes_read = ReadProgress(str(model_dir), files, log)
        graph_key = digest_of(
            {
                "model": [(file.name, file_digest(file, on_bytes_read)) for file in files],
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
                "kv_cache": [kv_cache, capacity],
                "samples": [(file.name, file_digest(file)) for file in samples],
                "images": [file_digest(image) for image in images if image.is_file()],
                "sources": sources_digest((*LOWERING_SOURCES, *VALIDATION_SOURCES)),
            }
        )
        return cls(
            str(model_dir),
            str(work),
            str(earlier),
            graph_key,
            key,
            tuple(map(str, images)),
            precision,
            few_layers,
            kv_cache,
            capacity,
            selection or ComponentSelection(),
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
        selection = ComponentSelection(**{name: tuple(names) for name, names in values["selection"].items()})
        return cls(**{**values, "images": tuple(values["images"]), "selection": selection})
