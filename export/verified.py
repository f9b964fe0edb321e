"""What was verified of each component, and on which machine: `python -m export.verified DIR`.

The table comes from `manifest.json`, so it shows only what was done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from export.store.manifest import EngineEntry, Manifest, NoEngine, Outcome, read_manifest, write_manifest
from models.directory_lock import directory_lock
from models.program import explained, run_program
from models.urls import local_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of an export; returns the exit status: 0, or 2 for what cannot be read."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m export.verified", description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=local_path, metavar="DIR", help="what python -m export.trt wrote")
    options = parser.parse_args(arguments)
    try:
        print(verified_where(read_manifest(options.directory)))
    except (OSError, ValueError) as error:
        print(explained(error), file=sys.stderr)
        return 2
    return 0


def verified_where(manifest: Manifest) -> str:
    """A Markdown table with a row for each component and each of its engines; below it, why steps were not done."""
    lines = [
        "| component | what | made | executed | equal to PyTorch |",
        "|---|---|---|---|---|",
    ]
    reasons: list[str] = []

    def status(outcome: Outcome | NoEngine) -> str:
        """With the number of its reason."""
        if outcome.reason is None:
            return outcome.status
        if outcome.reason not in reasons:
            reasons.append(outcome.reason)
        return f"{outcome.status} ({reasons.index(outcome.reason) + 1})"

    for name, entry in manifest.components.items():
        lines.append(f"| {name} | ONNX | yes | onnxruntime, CPU | {entry.validation.status} |")
        for folder, engine in entry.engines.items():
            if isinstance(engine, EngineEntry):
                facts = [f"yes, on {engine.built_on}", status(engine.executed), status(engine.verified)]
            else:
                facts = [status(engine), "–", "–"]
            lines.append(f"| {name} | {folder} | {' | '.join(facts)} |")
    whole = manifest.generation
    if isinstance(whole, Outcome):
        lines.append(f"| all together | ONNX | – | – | {status(whole)} |")
        return _with_reasons(lines, reasons)
    images = f"{whole.num_images} images, PSNR at least {whole.worst_psnr_db:.0f} dB"
    lines.append(f"| all together | ONNX | yes | onnxruntime, CPU | {len(whole.texts)} texts the same; {images} |")
    return _with_reasons(lines, reasons)


def _with_reasons(lines: Sequence[str], reasons: Sequence[str]) -> str:
    return "\n".join([*lines, "", *(f"({number}) {reason}" for number, reason in enumerate(reasons, start=1))]).strip()


def record_run(root: Path, folder: str, names: Sequence[str], on: str, difference: str | None) -> None:
    """Enter into the manifest that engines were executed, and whether they generated the same as PyTorch.

    Args:
        root: the export.
        folder: whose engines, as "rtx-1.7.1".
        names: the components that ran as engines.
        on: what GPU.
        difference: from `end_to_end.compare`.
    """
    with directory_lock(root):
        manifest = read_manifest(root)
        for name in names:
            engines = manifest.components[name].engines
            engine = engines[folder]
            assert isinstance(engine, EngineEntry), "it ran"
            verified = Outcome("pass") if difference is None else Outcome("fail", difference)
            engines[folder] = replace(engine, executed=Outcome(f"yes, on {on}"), verified=verified)
        write_manifest(root, manifest)


if __name__ == "__main__":
    sys.exit(run_program(main))
