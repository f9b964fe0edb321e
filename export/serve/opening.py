"""The model that is served: a model's directory, or an export of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from export.engine.compatibility import BUILDERS
from export.formats import ServedBackend, SessionBackend
from export.runtime import Session
from export.runtime.runners import exported_model
from export.store.manifest import MANIFEST_FILE, EngineEntry, read_manifest
from models import MMInterleaved
from models.generation.state import GenerativeModel
from plugins_trt.tensorrt_package import why_not


@dataclass(frozen=True)
class Source:
    """What to open, and how."""

    directory: Path
    backend: ServedBackend = "auto"
    model: Path | None = None
    """What was exported, for an export of which PyTorch computes components."""

    device: str | None = None
    dtype: str = "float32"
    """Of a model that PyTorch computes."""

    url: str | None = None
    """Of the server that computes components, for the back end triton."""


def backend_of(source: Source) -> SessionBackend:
    """What computes: for "auto", PyTorch for a model's directory, and for an export its engines where they can run
    here, else onnxruntime.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: a back end that reads exports, and no export; or a url without the back end triton, or the reverse.
    """
    if (source.backend == "triton") != (source.url is not None):
        raise ValueError(
            f"--backend is {source.backend} and --triton-url {source.url!r}. The one needs the other: --backend triton."
        )
    if not source.directory.is_dir():
        raise FileNotFoundError(f"There is no directory {source.directory}. Expected a model or an export of one.")
    if not (source.directory / MANIFEST_FILE).is_file():
        if source.backend not in ("auto", "torch"):
            raise ValueError(
                f"--backend is {source.backend}, and {source.directory} is no export. Make one with python -m "
                "export.trt, or leave --backend out."
            )
        return "torch"
    if source.backend != "auto":
        return source.backend
    if torch.cuda.is_available():
        components = read_manifest(source.directory).components.values()
        engines = [{name for name, one in each.engines.items() if isinstance(one, EngineEntry)} for each in components]
        for backend in ("trt", "rtx"):  # an engine's name is its builder and the builder's version
            builder = BUILDERS[backend]
            if why_not(builder) is None and all(any(name.startswith(f"{builder}-") for name in one) for one in engines):
                return backend
    return "ort"


def open_model(source: Source) -> GenerativeModel:
    """The model, ready to write.

    Raises:
        FileNotFoundError, IncompatibleExport, MissingPackage, ValueError: as `MMInterleaved.from_pretrained` and
            `Session.open`.
    """
    backend = backend_of(source)
    if not (source.directory / MANIFEST_FILE).is_file():
        device = source.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return MMInterleaved.from_pretrained(source.directory, device=device, dtype=source.dtype)
    model = None if source.model is None else exported_model(source.directory, source.model)
    return Session.open(source.directory, backend, model=model, device=source.device, url=source.url)
