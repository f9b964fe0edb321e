"""`--help` of every command answers without the heavy libraries that the command itself needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmfs", "models", "trainer", "plugins_trt", "export")
HEAVY = ("transformers", "diffusers", "onnxruntime", "matplotlib")

CHILD_PROCESSES = {"export.engine.build_process", "export.process.guarded", "export.stage_process"}
"""Programs that only another program starts; they have no options."""

MAKES_OWN_KERNELS = ("mmfs", "plugins_trt.embed", "models.convert")
"""Commands whose parsers name types or kernels of PyTorch; all others do without it too."""

LOOK = """
import contextlib, io, json, runpy, sys, warnings

warnings.simplefilter("ignore")  # runpy's, of modules that another command has imported
heavy, commands = json.loads(sys.argv[1])
for command in commands:
    before = set(sys.modules)
    sys.argv = [command, "--help"]
    status, shown = None, io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        status = error.code
    loaded = [name for name in heavy if name in sys.modules and name not in before]
    print(json.dumps([command, status, "usage:" in shown.getvalue(), loaded]))
"""


def commands(root: Path) -> list[str]:
    """Every module of ours that runs as a program, those that need PyTorch last."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    programs = [path for path in files if re.search(r'^if __name__ == "__main__":', path.read_text(), re.MULTILINE)]
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__main__") for path in programs]
    return sorted(set(names) - CHILD_PROCESSES, key=lambda name: (name in MAKES_OWN_KERNELS, name))


def answers(root: Path, names: list[str], heavy: tuple[str, ...]) -> list[tuple[str, int, bool, list[str]]]:
    """For each command: its name, exit code, whether it printed its usage, and the heavy libraries it loaded first."""
    answered = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps([heavy, names])],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in answered.stdout.splitlines()]


def test_help_of_every_command_is_light():
    names = commands(ROOT)
    assert {"mmfs", "models.convert", "trainer.pretrain", "trainer.demo", "export.trt"} <= set(names)
    light = [name for name in names if name not in MAKES_OWN_KERNELS]
    found = answers(ROOT, light, (*HEAVY, "torch")) + answers(ROOT, list(MAKES_OWN_KERNELS), HEAVY)
    assert [name for name, *_ in found] == [*light, *MAKES_OWN_KERNELS]
    assert [(name, *answer) for name, *answer in found if answer != [0, True, []]] == []


def test_a_heavy_command_and_one_without_help_are_found(tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "wave_of_ours.py").write_text("")
    program = 'if __name__ == "__main__":\n    '
    (tmp_path / "trainer" / "heavy.py").write_text(
        f"import argparse, wave_of_ours\n{program}argparse.ArgumentParser().parse_args()\n"
    )
    (tmp_path / "trainer" / "mute.py").write_text(f"{program}print(1)\n")
    assert commands(tmp_path) == ["trainer.heavy", "trainer.mute"]
    assert answers(tmp_path, commands(tmp_path), ("wave_of_ours",)) == [
        ("trainer.heavy", 0, True, ["wave_of_ours"]),
        ("trainer.mute", None, False, []),
    ]
