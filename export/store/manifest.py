"""`manifest.json`: what was exported, from which model, with which software, its errors, and what was not done.

The file is these dataclasses as JSON. It is read strictly: an entry that is missing, unknown or of another type is an
error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from export.components.profiles import Limits, Profile
from models.atomic_files import write_atomically
from models.json_files import shortened
from models.listed_paths import is_below

SCHEMA = 8
MANIFEST_FILE = "manifest.json"
ONNX_DIR, ASSETS_DIR, ENGINES_DIR = "onnx", "assets", "engines"


DataType = Literal[
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"
]
"""Names of torch's dtypes."""


@dataclass(frozen=True)
class FileEntry:
    """A file, by its place below the export's directory.

    Raises:
        ValueError: it would be elsewhere.
    """

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if self.path in ("", ".") or not is_below(self.path):
            raise ValueError(f"{self.path!r} is not below the directory of the manifest")


@dataclass(frozen=True)
class PortEntry:
    """An input or output of a component."""

    name: str
    dtype: DataType
    shape: tuple[int | str, ...]
    """With the names of dynamic axes."""

    role: Literal["plain", "cache", "bank"]
    """As in `export.components.component.Port`."""


@dataclass(frozen=True)
class GraphEntry:
    """An ONNX graph."""

    file: FileEntry
    weights: tuple[FileEntry, ...]
    opset: int
    mmfs_domain: int
    """Version of the domain of the mmfs nodes."""

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The graph and its weights."""
        return (self.file, *self.weights)


@dataclass(frozen=True)
class CaseResult:
    """Errors of a component with one set of inputs, per output."""

    case: str
    shapes: dict[str, list[int]]
    relative_errors: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest of the errors."""
        return max(self.relative_errors.values())


@dataclass(frozen=True)
class Likelihood:
    """How well a language model with eight-bit weights predicts the documents."""

    num_tokens: int
    perplexity: float
    """By the graph."""

    pytorch_perplexity: float


@dataclass(frozen=True)
class GreedyText:
    """One document, continued by both; a difference is no error."""

    num_tokens: int
    num_equal: int
    """Of the leading tokens."""

    text: str
    """By the graph."""

    pytorch_text: str


@dataclass(frozen=True)
class CustomOperatorsEntry:
    """The same cases with the mmfs nodes computed by the compiled kernel: onnxruntime's custom operators."""

    status: Literal["pass", "not run"]
    reason: str | None = None
    max_relative_error: float | None = None


@dataclass(frozen=True)
class ValidationEntry:
    """How a graph was compared with PyTorch; it passed, else there would be no export."""

    runtime: str
    """mmfs nodes were computed by their bodies, as any runtime can."""

    tolerance: float | dict[str, float]
    max_relative_error: float
    cases: tuple[CaseResult, ...]
    num_greedy_tokens: int | None = None
    likelihood: Likelihood | None = None
    greedy: tuple[GreedyText, ...] | None = None
    custom_operators: CustomOperatorsEntry | None = None
    """None: there are no mmfs nodes."""

    status: Literal["pass"] = "pass"


@dataclass(frozen=True)
class QuantizedEntry:
    """Which weights of a graph have eight bits, and their size without quantization."""

    what: str
    scheme: str
    num_matrices: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step, and why it was not done or did not pass."""

    status: str
    reason: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What TensorRT's inspector sees in an engine."""

    status: Literal["pass", "not run"]
    reason: str | None = None
    num_plugin_layers: int | None = None


@dataclass(frozen=True)
class BuilderEntry:
    """Who built an engine."""

    package: str
    version: str


@dataclass(frozen=True)
class MachineCode:
    """The kernels of mmfs in an engine."""

    architectures: tuple[str, ...]
    sha256: tuple[str, ...]
    """Of each set of kernels."""


@dataclass(frozen=True)
class LeastDriver:
    """The first branches of NVIDIA's driver that load kernels."""

    machine_code: int
    ptx: int


@dataclass(frozen=True)
class Requirements:
    """What a machine has to have to run an engine."""

    platform: str
    capability: tuple[int, int] | None
    """Compute capability of its GPU; None: any."""

    architectures: tuple[str, ...]
    """Of the kernels; one of them has to run on the GPU. Empty without plugins."""

    cuda: str | None
    """Of the NVRTC that made the kernels; None: they were compiled elsewhere, or there are none."""

    least_driver: LeastDriver | None
    kernels_sha256: str | None
    """Of the kernels' sources, where this program launches the kernels in the plan."""


@dataclass(frozen=True)
class EngineEntry:
    """An engine that was built."""

    key: str
    """Digest of everything that it depends on."""

    plan: FileEntry
    builder: BuilderEntry
    built_on: str
    seconds: float
    limits: Limits
    profiles: tuple[Profile, ...]
    memory_bytes: dict[str, int]
    """The memory that it takes, as TensorRT reports it."""

    num_layers_parsed: int
    num_plugins: dict[str, int]
    """By type of the node."""

    mmfs_nodes: str
    plugin_kind: str | None
    plugin_library: str | None
    machine_code: MachineCode
    requires: Requirements
    inspector: Inspection
    executed: Outcome
    verified: Outcome
    status: Literal["built"] = "built"

    @property
    def was_executed(self) -> bool:
        """Whether it has run anywhere."""
        return self.executed.status != "not run"


@dataclass(frozen=True)
class NoEngine:
    """Why there is no engine."""

    status: Literal["failed", "not built"]
    reason: str
    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True)
class ComponentEntry:
    """A component of the export."""

    onnx: GraphEntry
    inputs: tuple[PortEntry, ...]
    outputs: tuple[PortEntry, ...]
    aliases: dict[str, str]
    """By output, the input in whose memory it is written."""

    num_nodes: int
    num_mmfs_nodes: dict[str, int]
    validation: ValidationEntry
    engines: dict[str, EngineEntry | NoEngine]
    """By builder and version, as "rtx-1.7.1"."""

    quantized: QuantizedEntry | None = None

    def built(self, builder: str) -> dict[str, EngineEntry]:
        """Engines by the version of a builder, the newest last."""
        return {
            folder.removeprefix(f"{builder}-"): entry
            for folder, entry in self.engines.items()
            if folder.startswith(f"{builder}-") and isinstance(entry, EngineEntry)
        }

    def input_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """The shape of every input, with the names of dynamic axes."""
        return {port.name: port.shape for port in self.inputs}


@dataclass(frozen=True)
class GenerationResult:
    """What the exported model and PyTorch generated equally."""

    texts: list[str]
    """Greedy continuations, equal in both."""

    num_images: int
    worst_psnr_db: float
    """Of all images, at most `export.validate.end_to_end.EQUAL_DB`."""

    status: Literal["pass"] = "pass"


@dataclass(frozen=True)
class How:
    """Options of `python -m export.trt` that the graphs were made with, under their names."""

    precision: str
    llm_weights: str
    kv_cache: str
    max_past: int | None
    few_layers: int | None
    images: tuple[str, ...]
    sampling_locations: bool = False


@dataclass(frozen=True)
class Tool:
    """What wrote the export."""

    name: str
    mmfs: str


@dataclass(frozen=True)
class Manifest:
    """All of it."""

    key: str
    """Digest of everything that the export depends on."""

    tool: Tool
    how: How
    versions: dict[str, str]
    """Of the packages that made the graphs."""

    model_dir: str
    model: dict[str, FileEntry]
    """Its files, by their place below `model_dir`."""

    samples: str
    """What it was checked with, in words."""

    components: dict[str, ComponentEntry]
    left_to_pytorch: tuple[str, ...]
    """Components that are left to PyTorch on purpose."""

    not_exported: tuple[str, ...]
    """Other components that are missing."""

    assets: tuple[FileEntry, ...]
    generation: GenerationResult | Outcome
    not_done: tuple[str, ...] = ()
    """What was not done, in sentences, made when the file is written."""

    schema: int = SCHEMA


_ADAPTER = TypeAdapter(Manifest)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write or replace `manifest.json`, completely or not at all."""
    manifest = replace(manifest, not_done=_not_done(manifest))
    write_atomically(root / MANIFEST_FILE, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")


def read_manifest(root: Path) -> Manifest:
    """What `write_manifest` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version of this program.
    """
    file = root / MANIFEST_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{root} holds no {MANIFEST_FILE}. Expected what python -m export.trt writes.")
    try:
        text = file.read_text(encoding="utf-8")
        schema = json.loads(text)["schema"]
        if schema == SCHEMA:
            return _ADAPTER.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file} is damaged ({place}: {first['msg']}). Export again with --stage validate.") from error
    except RecursionError as error:
        raise ValueError(
            f"{file} is damaged (lists within lists without end). Export again with --stage validate."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}). Export again with --stage validate.") from error
    raise ValueError(
        f"{file} has schema {shortened(schema)}; this program reads {SCHEMA}. Export again with --stage validate."
    )


def manifest_of(root: Path) -> Manifest | None:
    """The same; None where nothing can be read."""
    try:
        return read_manifest(root)
    except (FileNotFoundError, ValueError):
        return None


def _not_done(manifest: Manifest) -> tuple[str, ...]:
    built: Mapping[str, list[EngineEntry]] = {
        name: [entry for entry in component.engines.values() if isinstance(entry, EngineEntry)]
        for name, component in manifest.components.items()
    }
    lacking = [name for name, found in built.items() if not found]
    idle = [name for name, found in built.items() if found and not any(entry.was_executed for entry in found)]
    sentences = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("not exported", manifest.not_exported),
            ("left to PyTorch", manifest.left_to_pytorch),
            ("no engine", lacking),
            ("engines built and never executed", idle),
        )
        if names
    ]
    return tuple(sentences)
