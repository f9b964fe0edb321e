"""Who imports whom, and what `import mmfs` costs: the drawing in ARCHITECTURE.md, held by tests."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Imports go down only. bench and examples may import what is below them, and nothing imports them.
MAY_IMPORT = {
    "mmfs": set(),
    "models": {"mmfs"},
    "trainer": {"mmfs", "models", "export"},
    "plugins_trt": {"mmfs"},
    "export": {"mmfs", "models", "plugins_trt"},
    "bench": {"mmfs", "models", "trainer", "plugins_trt", "export"},
    "examples": {"mmfs", "models", "trainer", "plugins_trt", "export"},
}
# The folders inside a package, from the lowest up: a folder imports only from those before it. The package's own files,
# which are its commands and what they share, may stand anywhere between.
FOLDERS = {
    "export": ("process", "components", "graph", "store", "engine", "runtime", "validate", "serve"),
    "trainer": (
        "process",
        "scorers",
        "data",
        "logging",
        "step",
        "cost",
        "options",
        "recipes",
        "evaluation",
        "benchmarks",
        "ablation",
        "demo",
    ),
}
# A dependency that is heavy, or that changes fast, is known to as few folders as possible.
ONLY_IN = {
    "transformers": ("mmfs/transformers_models", "models", "bench", "examples", "trainer/benchmarks/networks"),
    "diffusers": ("models", "bench"),
    "tensorrt": ("plugins_trt", "export", "bench"),
    "tensorrt_rtx": ("plugins_trt", "export", "bench"),
    "cupy": ("mmfs/kernels", "bench"),
    "starlette": ("export/serve",),
    "uvicorn": ("export/serve",),
    "prometheus_client": ("export/serve",),
    "urllib3": ("export/runtime",),
    "ray": ("examples",),
    "fsspec": ("models/object_storage.py",),
    "export": ("export", "bench", "examples", "trainer/benchmarks"),  # benchmarks judge what is deployed
}
HEAVY = (*ONLY_IN, "models", "onnx", "onnxruntime", "plugins_trt")


def imported_names(source: str, package: str) -> Iterator[tuple[str, int]]:
    """The full name of every import in a source of that package, with its line: at any depth of the code, and in
    `if TYPE_CHECKING:` too, because a type that a module is about belongs below it like all else."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                origin = resolve_name("." * level + (module or ""), package)
                yield from ((f"{origin}.{alias.name}", node.lineno) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module, node.lineno


def imports_of(path: Path, root: Path) -> list[tuple[str, int]]:
    return list(imported_names(path.read_text(), ".".join(path.relative_to(root).parent.parts)))


def imported_roots(path: Path, root: Path) -> list[tuple[str, int]]:
    """The first name of every import of a file, with its line."""
    return list(dict.fromkeys((name.partition(".")[0], line) for name, line in imports_of(path, root)))


def python_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(package, file) for every module of ours below root."""
    for package in MAY_IMPORT:
        yield from ((package, path) for path in sorted((root / package).rglob("*.py")))


def wrong_directions(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for package, path in python_files(root)
        for name, line in imported_roots(path, root)
        if name in MAY_IMPORT and name != package and name not in MAY_IMPORT[package]
    ]


def upward_imports(root: Path) -> list[str]:
    """Imports from a folder of a package into one that stands above it."""
    found = []
    for package, folders in FOLDERS.items():
        for folder in folders:
            above = {f"{package}.{other}" for other in folders[folders.index(folder) + 1 :]}
            for path in sorted((root / package / folder).rglob("*.py")):
                for name, line in imports_of(path, root):
                    if ".".join(name.split(".")[:2]) in above:
                        found.append(f"{path.relative_to(root)}:{line} imports {name}")
    return found


def unplaced_folders(root: Path) -> list[str]:
    """Folders with Python code whose place is not said in FOLDERS, and those in FOLDERS that are not there."""
    return sorted(
        f"{package}/{folder}"
        for package, folders in FOLDERS.items()
        for folder in {path.parent.name for path in (root / package).glob("*/*.py")} ^ set(folders)
    )


def circle(root: Path) -> list[str]:
    """Modules of which each imports the next, the last being the first again; none if there is no circle."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for _, path in python_files(root)
    }

    def module_of(name: str) -> str:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    graph = {
        module: {module_of(name) for name, _ in imports_of(path, root)} - {module} for module, path in files.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def misplaced_dependencies(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}:{line} imports {name}, which belongs in {' and '.join(ONLY_IN[name])}"
        for _, path in python_files(root)
        for name, line in imported_roots(path, root)
        if name in ONLY_IN and not any(path.is_relative_to(root / folder) for folder in ONLY_IN[name])
    ]


def misnamed_files(root: Path) -> list[str]:
    """Files called utils.py, and packages below tests/: these would shadow the real mmfs, models, ..."""
    folders = [*MAY_IMPORT, "tests"]
    return [
        str(path.relative_to(root))
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
        if path.name == "utils.py" or (folder == "tests" and path.name == "__init__.py")
    ]


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of the named modules a fresh interpreter has loaded after the statement."""
    code = f"import sys\n{statement}\nprint(*[name for name in {names!r} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    return root


def test_imports_go_down_only():
    assert [path for _, path in python_files(ROOT)], f"no source found below {ROOT}"
    wrong = wrong_directions(ROOT)
    assert not wrong, "\n".join(wrong)


def test_folders_import_only_from_those_below():
    assert unplaced_folders(ROOT) == []
    wrong = upward_imports(ROOT)
    assert not wrong, "\n".join(wrong)


def test_imports_make_no_circle():
    found = circle(ROOT)
    assert not found, " imports ".join(found)


def test_dependencies_stay_in_their_folders():
    wrong = misplaced_dependencies(ROOT)
    assert not wrong, "\n".join(wrong)


def test_files_are_named_for_what_they_hold():
    wrong = misnamed_files(ROOT)
    assert not wrong, "\n".join(wrong)


def test_import_mmfs_is_light():
    loaded = loaded_by("import mmfs", HEAVY)
    assert not loaded, f"import mmfs also loads {', '.join(loaded)}"


@pytest.mark.parametrize(
    "statement",
    [
        "import models.batch",
        "from models import Batch",
        "import math, models",
        "def late():\n    from models.batch import Batch",
        "import importlib\nimportlib.import_module('models.batch')",
        "__import__('models')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from models.batch import Batch",
    ],
)
def test_an_upward_import_is_found(tmp_path, statement):
    root = write_tree(tmp_path, {"mmfs/layer.py": statement, "models/batch.py": "import mmfs\nfrom .config import C\n"})
    (found,) = wrong_directions(root)
    assert found.startswith("mmfs/layer.py:")
    assert found.endswith("imports models")


def test_an_import_from_a_folder_above_is_found(tmp_path):
    files = {f"{package}/{folder}/a.py": "" for package, folders in FOLDERS.items() for folder in folders}
    files |= {
        "export/graph/a.py": "from export.engine.build import build_engines\nfrom export.process.lock import lock",
        "trainer/data/a.py": "def late():\n    import trainer.demo",
    }
    root = write_tree(tmp_path, files)
    assert unplaced_folders(root) == []
    assert upward_imports(root) == [
        "export/graph/a.py:1 imports export.engine.build.build_engines",
        "trainer/data/a.py:2 imports trainer.demo",
    ]


def test_a_folder_without_a_place_is_found(tmp_path):
    files = {f"{package}/{folder}/a.py": "" for package, folders in FOLDERS.items() for folder in folders[1:]}
    assert unplaced_folders(write_tree(tmp_path, {**files, "export/attic/a.py": ""})) == [
        "export/attic",
        "export/process",
        "trainer/process",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "from models.layers.deep import Deep",
        "from .layers import deep",
        "def late():\n    import models.layers.deep",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from models.layers.deep import Deep",
    ],
)
def test_a_circle_inside_a_package_is_found(tmp_path, statement):
    files = {
        "models/__init__.py": "from models.whole import Whole",
        "models/whole.py": "from models.layers.deep import Deep",
        "models/layers/__init__.py": "",
        "models/layers/deep.py": "from ..base import Base",
    }
    root = write_tree(tmp_path, {**files, "models/base.py": ""})
    assert circle(root) == []
    found = circle(write_tree(root, {"models/base.py": statement}))
    assert set(found) == {"models.base", "models.layers.deep"}
    assert found[0] == found[-1]


@pytest.mark.parametrize("name", ["bench", "examples"])
def test_nothing_may_import_what_stands_on_top(tmp_path, name):
    root = write_tree(tmp_path, {"trainer/step/loop.py": f"from {name}.workloads import WORKLOADS"})
    assert wrong_directions(root) == [f"trainer/step/loop.py:1 imports {name}"]


def test_a_misplaced_dependency_is_found(tmp_path):
    files = {
        "trainer/step/loop.py": "import transformers",
        "models/language_model.py": "import transformers",
        "mmfs/functional.py": "\nimport cupy.cuda",
        "mmfs/kernels/compile.py": "import cupy",
    }
    assert misplaced_dependencies(write_tree(tmp_path, files)) == [
        "mmfs/functional.py:2 imports cupy, which belongs in mmfs/kernels and bench",
        "trainer/step/loop.py:1 imports transformers, which belongs in mmfs/transformers_models and models and "
        "bench and examples and trainer/benchmarks/networks",
    ]


def test_a_misnamed_file_is_found(tmp_path):
    files = {"models/utils.py": "", "models/__init__.py": "", "tests/models/__init__.py": ""}
    assert misnamed_files(write_tree(tmp_path, files)) == ["models/utils.py", "tests/models/__init__.py"]


def test_a_heavy_import_is_found():
    assert loaded_by("import json.decoder", ("json", "wave")) == ["json"]
