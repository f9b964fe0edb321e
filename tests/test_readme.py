"""What the README shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_layer_example_runs() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [example] = [text for text in examples if "from mmfs import MMFS" in text]
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    out = names["out"]
    assert isinstance(out, torch.Tensor)
    assert out.shape == (2, 5, 256)
    assert out.requires_grad


def test_every_file_it_points_to_is_there() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
    folders = re.findall(r"^\| `([\w/]+)/` \|", README, re.MULTILINE)
    assert folders == ["mmfs", "models", "trainer", "plugins_trt", "export", "bench", "tests"]
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_every_module_it_runs_exists() -> None:
    modules = set(re.findall(r"python -m ((?:mmfs|models|trainer|export|bench)(?:\.\w+)*)", README))
    assert {"trainer.pretrain", "export.trt", "mmfs"} <= modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
