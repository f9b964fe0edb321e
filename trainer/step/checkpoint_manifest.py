"""checkpoint.json, the small file that makes a checkpoint whole: what it is, how large its files are, their digests.

It has a digest of its own too, since a flipped bit in the number of the step would be as wrong as one in a weight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.json_files import read_json_object
from models.listed_paths import is_below
from models.object_path import Place

MANIFEST = "checkpoint.json"
OWN = "own_sha256"


@dataclass(frozen=True)
class CheckpointManifest:
    """What checkpoint.json says."""

    phase: str
    phase_index: int
    step: int
    base: dict[str, str]
    config: dict[str, Any]
    file_sizes_bytes: dict[str, int]
    """Of each file, by its place below the checkpoint."""

    sha256: dict[str, str]
    """The same files; empty in a checkpoint of an earlier version, which has no digests."""


def manifest_text(facts: Mapping[str, Any]) -> str:
    """The file with these entries, and the digest of them."""
    return json.dumps({**facts, OWN: _digest(json.loads(json.dumps(facts)))}, indent=1)


def read_manifest(directory: Place) -> CheckpointManifest:
    """What `manifest_text` made.

    Raises:
        OSError: there is none.
        ValueError: it is damaged, or of another form.
    """
    content = read_json_object(directory / MANIFEST)
    own = content.pop(OWN, None)
    if own != (_digest(content) if "sha256" in content or own is not None else None):
        raise ValueError(f"{directory / MANIFEST} is not as it was written.")
    content.setdefault("sha256", {})
    expected = {
        "phase": (str, None),
        "phase_index": (int, None),
        "step": (int, None),
        "base": (dict, str),
        "config": (dict, None),
        "file_sizes_bytes": (dict, int),
        "sha256": (dict, str),
    }
    if content.keys() != expected.keys():
        raise ValueError(f"{directory / MANIFEST} has other entries than {', '.join(expected)}.")
    for name, (kind, of) in expected.items():
        value = content[name]
        parts = value.values() if isinstance(value, dict) and of is not None else ()
        if type(value) is not kind or any(type(part) is not of for part in parts):
            raise ValueError(f"{directory / MANIFEST} has a {name} of another form.")
    manifest = CheckpointManifest(**content)
    if manifest.step < 0 or (manifest.sha256 and manifest.sha256.keys() != manifest.file_sizes_bytes.keys()):
        raise ValueError(f"{directory / MANIFEST} lists other digests than files, or a step below 0.")
    for name in manifest.file_sizes_bytes:
        if not is_below(name):
            raise ValueError(f"{directory / MANIFEST} lists {name!r}, which is not below it.")
    return manifest


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
