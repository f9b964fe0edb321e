"""The API reference: every public module has its page, and nothing in it needs a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("pdoc", reason="pdoc is not here; it comes with the extra docs")


def build(out: Path, *, script: Path = ROOT / "docs" / "reference.py") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, out], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_every_public_module_has_a_page_that_needs_no_network(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    modules = re.findall(r'^    "([\w.]+)",$', (ROOT / "docs" / "reference.py").read_text(), re.MULTILINE)
    pages = {name: tmp_path / f"{name.replace('.', '/')}.html" for name in modules}
    assert {"mmfs", "models.mm_interleaved", "trainer.config", "export.runtime.session"} <= pages.keys()
    front = (tmp_path / "index.html").read_text()
    for name, page in pages.items():
        assert page.is_file()
        assert f'href="{name.replace(".", "/")}.html"' in front
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"""(?:src|<link[^>]*href)=["'](https?:[^"']+)""", page.read_text())
        assert not loaded, f"{page} loads {loaded}"
    assert "spatial_shapes:" in pages["mmfs"].read_text(), "the arguments of MMFS are listed"


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "docs" / "reference.py"
    script.parent.mkdir()
    source = (ROOT / "docs" / "reference.py").read_text()
    script.write_text(re.sub(r"MODULES = \[.*?\]", 'MODULES = ["promising"]', source, flags=re.DOTALL))
    (tmp_path / "promising.py").write_text('"""A module."""\n__all__ = ["absent"]\n')
    done = build(tmp_path / "out", script=script)
    assert done.returncode != 0
    assert "Found 'absent' in promising.__all__" in done.stderr
