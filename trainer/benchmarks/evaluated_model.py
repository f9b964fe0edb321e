"""The model that is evaluated: a model directory, or an export of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.benchmarks.answering import Generator
from trainer.benchmarks.settings import digest_of
from trainer.errors import UsageError

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model that answers, and which one it is."""

    model: Generator
    facts: Mapping[str, Any]
    """Its sizes, and what computes it."""

    files: Sequence[Path]
    """What makes it this model and no other."""

    def describe(self) -> dict[str, Any]:
        """For the settings of a run. All files are read for their digest."""
        return {**self.facts, "sha256": digest_of(self.files)}


def open_model(directory: Path, device: torch.device, backend: str | None) -> EvaluatedModel:
    """The model of a directory, or the export, which its manifest tells.

    Args:
        directory: what `save_pretrained`, `models.convert` or `export.trt` wrote.
        device: where a model computes.
        backend: of an export: "ort", "trt" or "rtx". None: onnxruntime.

    Raises:
        UsageError: it is neither, or cannot be read.
    """
    if (directory / MANIFEST_FILE).is_file():
        return _open_export(directory, backend or "ort", device if device.type == "cuda" else None)
    if backend is not None:
        raise UsageError(f"--backend is {backend}, and {directory} is no export: it has no {MANIFEST_FILE}.")
    from models import MMInterleaved

    try:
        model = MMInterleaved.from_pretrained(directory, device=device)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if model.processor is None:
        raise UsageError(f"{directory} has no tokenizer, and answers are texts. Save the model with its processor.")
    files = [file for pattern in ("*.json", "*.safetensors") for file in sorted(directory.glob(pattern))]
    facts = {
        "form": "model",
        "image size": list(model.config.image_size),
        "drawn image size": list(model.config.drawn_image_size),
        "dtype": str(model.begin_of_image.dtype).removeprefix("torch."),
    }
    return EvaluatedModel(model, facts, files)


def _open_export(directory: Path, backend: str, device: torch.device | None) -> EvaluatedModel:
    from export.formats import BACKENDS
    from export.runtime.session import Session

    if backend not in BACKENDS or backend == "torch":
        names = ", ".join(name for name in BACKENDS if name != "torch")
        raise UsageError(f"--backend is {backend!r}; expected {names}.")
    try:
        session = Session.open(directory, backend, device=device)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    facts = {
        "form": f"export, run by {backend}",
        "image size": list(session.config.image_size),
        "drawn image size": list(session.config.drawn_image_size),
    }
    # the manifest holds the digest of every file
    return EvaluatedModel(session, facts, [directory / MANIFEST_FILE])
