"""What importing the package does to the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_onnxruntime_reports_nothing(tmp_path: Path) -> None:
    """Its wheels begin to when they are imported, with a database in the cache folder."""
    names = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    inherited = {name: text for name, text in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = "import export, onnxruntime"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=inherited | names)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
