"""What is exported, how, and the digests of everything that this depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from export.formats import DEFAULT_KV_CACHE, KVCacheLayout, Precision, Weights
from export.process.fingerprint import digest_of, file_digest
from export.process.progress import Log, ReadProgress
from export.process.source_digest import modules_digest
from export.store.samples import SAMPLES_DIR
from export.store.selection import ComponentSelection
from models.atomic_files import write_atomically

NEUTRAL_DIR = "neutral"
JOB_FILE = "job.json"
PACKAGES = ("torch", "transformers", "diffusers", "onnx", "onnxscript", "onnxruntime")
"""Packages whose versions the graphs depend on."""

GRAPH_MODULES = (
    "export.components.all",
    "export.graph.onnx_graph",
    "export.graph.meta_model",
    "export.graph.truncate",
)
"""These and all modules that they import are the code that the neutral graphs depend on."""

LOWERING_MODULES = (
    "export.graph.kv_cache",
    "export.graph.precision",
    "export.graph.external_data",
    "export.graph.quantization",
)
"""The same of the graphs in their precision and KV-cache layout."""

VALIDATION_MODULES = ("export.stage_process",)
"""The same of a finished export: everything that a stage runs."""


@dataclass(frozen=True)
class Job:
    """What is exported, and how."""

    model_dir: str
    work: str
    """The folder in which the export grows."""

    earlier: str
    """An earlier export, whose traced graphs may be used again; it need not exist."""

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
    """Which components; not in the digests, so that components can be added to an export."""

    llm_weights: Weights = "same"
    sampling_locations: bool = False
    """Whether the components with MMFS say what it asks of the op."""

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
        sampling_locations: bool = False,
        log: Log = lambda line: None,
    ) -> Job:
        """With its digests; reads every file of the model once, and reports progress."""
        files = sorted([*model_dir.glob("*.json"), *model_dir.glob("*.safetensors")])
        on_bytes_read = ReadProgress(str(model_dir), files, log)
        graph_key = digest_of(
            {
                "model": [(file.name, file_digest(file, on_bytes_read)) for file in files],
                "few_layers": few_layers,
                "sampling_locations": sampling_locations,
                "packages": {package: version(package) for package in PACKAGES},
                "sources": modules_digest(GRAPH_MODULES),
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
                "sources": modules_digest(VALIDATION_MODULES),
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
            sampling_locations,
        )

    def save(self) -> Path:
        """Into its folder, for the processes of the stages."""
        file = Path(self.work) / JOB_FILE
        write_atomically(file, json.dumps(asdict(self)))
        return file

    @classmethod
    def load(cls, file: Path) -> Job:
        """What `save` wrote."""
        values = json.loads(file.read_text())
        selection = ComponentSelection(**{name: tuple(names) for name, names in values["selection"].items()})
        return cls(**{**values, "images": tuple(values["images"]), "selection": selection})
