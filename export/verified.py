"""What is known of each component, and on what machine it was found out: `python -m export.verified DIR`.

The table comes from `manifest.json`, so it says no more than was done.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.process.lock import directory_lock
from export.store.manifest import read_manifest, write_manifest


def main(arguments: Sequence[str]) -> int:
    """Print the table of an export."""
    if len(arguments) != 1:
        print("usage: python -m export.verified DIR", file=sys.stderr)
        return 2
    try:
        print(verified_where(read_manifest(Path(arguments[0]))))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def verified_where(manifest: Mapping[str, Any]) -> str:
    """A Markdown table with a row for each component and each of its engines; below it, why something was not done."""
    lines = [
        "| component | what | made | executed | equal to PyTorch |",
        "|---|---|---|---|---|",
    ]
    reasons: list[str] = []

    def status(fact: Mapping[str, Any]) -> str:
        """A status, with the number of its reason."""
        if "reason" not in fact:
            return str(fact["status"])
        if fact["reason"] not in reasons:
            reasons.append(fact["reason"])
        return f"{fact['status']} ({reasons.index(fact['reason']) + 1})"

    for name, entry in manifest["components"].items():
        checked = entry["validation"]
        lines.append(f"| {name} | ONNX | yes | onnxruntime, CPU | {status(checked)} |")
        for engine, facts in entry["engines"].items():
            made = f"yes, on {facts['built_on']}" if facts["status"] == "built" else status(facts)
            executed, verified = (status(facts[what]) if what in facts else "–" for what in ("executed", "verified"))
            lines.append(f"| {name} | {engine} | {made} | {executed} | {verified} |")
    whole = manifest["generation"]
    if "reason" in whole:
        lines.append(f"| all together | ONNX | – | – | {status(whole)} |")
        return _with_reasons(lines, reasons)
    images = f"{whole['num_images']} images, PSNR at least {whole['worst_psnr_db']:.0f} dB"
    lines.append(f"| all together | ONNX | yes | onnxruntime, CPU | {len(whole['texts'])} texts the same; {images} |")
    return _with_reasons(lines, reasons)


def _with_reasons(lines: Sequence[str], reasons: Sequence[str]) -> str:
    return "\n".join([*lines, "", *(f"({number}) {reason}" for number, reason in enumerate(reasons, start=1))]).strip()


def record_run(root: Path, folder: str, names: Sequence[str], on: str, difference: str | None) -> None:
    """Enter into the manifest that engines were executed, and whether they wrote and drew what PyTorch does.

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
            facts = manifest["components"][name]["engines"][folder]
            facts["executed"] = {"status": f"yes, on {on}"}
            facts["verified"] = {"status": "pass"} if difference is None else {"status": "fail", "reason": difference}
        write_manifest(root, manifest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
