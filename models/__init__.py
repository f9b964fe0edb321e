"""MM-Interleaved: the model, built on `mmfs`, transformers and diffusers.

Names are imported when they are first used (PEP 562), so that `import models.config` costs neither transformers nor
diffusers, and every command's `--help` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.batch import Batch
    from models.config import MMInterleavedConfig
    from models.mm_interleaved import MMInterleaved
    from models.network import Output
    from models.processor import MMInterleavedProcessor

__all__ = ["Batch", "MMInterleaved", "MMInterleavedConfig", "MMInterleavedProcessor", "Output"]

_DEFINED_IN = {
    "Batch": "models.batch",
    "MMInterleaved": "models.mm_interleaved",
    "MMInterleavedConfig": "models.config",
    "MMInterleavedProcessor": "models.processor",
    "Output": "models.network",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
