"""A key depends on what can change a result, and on nothing else."""

from pathlib import Path

import pytest

from export.components.all import COMPONENTS
from export.engine.build import BUILDER_MODULES, PLUGIN_MODULES
from export.process.source_digest import files_digest, imported_modules, modules_digest
from export.store.job import GRAPH_MODULES, LOWERING_MODULES, VALIDATION_MODULES

SOURCES = {
    "app/__init__.py": "",
    "app/entry.py": """
        import os
        from app.near import value
        from app import lazy

        def run():
            return value + lazy.Thing.size
        """,
    "app/near.py": """
        from .deep import far

        value = far.number
        """,
    "app/deep/__init__.py": "",
    "app/deep/far.py": "number = 1",
    "app/lazy/__init__.py": """
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            from app.lazy.thing import Thing
        """,
    "app/lazy/thing.py": "class Thing:\n    size = 2",
    "app/user.py": "from app.lazy import Thing",
    "app/inside.py": "def run():\n    from app.deep import far",
    "app/other.py": "nobody = True",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small project."""
    for name, text in SOURCES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
        file.write_text("\n".join(line[indent:] for line in lines) + "\n")
    return tmp_path


def key(root: Path) -> str:
    return modules_digest(["app.entry"], root=root)


def test_comments_docstrings_and_the_wrapping_of_lines_do_not_count(root: Path) -> None:
    before = key(root)
    far = root / "app/deep/far.py"
    far.write_text('"""What this is."""\n\n# why\nnumber = (\n    1  # one\n)\n"""Below it."""\n')
    assert key(root) == before
    far.write_text("number = 2\n")
    assert key(root) != before


def test_text_that_is_used_counts(root: Path) -> None:
    far = root / "app/deep/far.py"
    far.write_text('number = "one"\n')
    before = key(root)
    far.write_text('number = "two"\n')
    assert key(root) != before


@pytest.mark.parametrize("name", ["app/entry.py", "app/near.py", "app/deep/__init__.py", "app/deep/far.py"])
def test_code_that_is_imported_through_others_counts(root: Path, name: str) -> None:
    before = key(root)
    with (root / name).open("a") as stream:
        stream.write("more = 1\n")
    assert key(root) != before


def test_code_that_nobody_imports_does_not_count(root: Path) -> None:
    before = key(root)
    (root / "app/other.py").write_text("nobody = False\n")
    (root / "app/new.py").write_text("x = 1\n")
    assert key(root) == before


def test_a_name_that_a_package_hands_out_lazily_is_followed(root: Path) -> None:
    assert "app.lazy.thing" in imported_modules(["app.user"], root=root)
    assert "app.lazy.thing" not in imported_modules(["app.deep.far"], root=root)


def test_imports_inside_of_functions_count(root: Path) -> None:
    assert imported_modules(["app.inside"], root=root) == {"app", "app.inside", "app.deep", "app.deep.far"}


def test_what_does_not_run_can_be_left_out(root: Path) -> None:
    found = imported_modules(["app.entry"], without=["app.near"], root=root)
    assert not {"app.near", "app.deep.far"} & found


def test_a_moved_module_is_followed_or_refused(root: Path) -> None:
    before = key(root)
    (root / "app/deep/far.py").rename(root / "app/deep/away.py")
    (root / "app/near.py").write_text("from .deep import away\n\nvalue = away.number\n")
    moved = key(root)
    assert moved != before
    (root / "app/deep/away.py").write_text("number = 3\n")
    assert key(root) != moved
    (root / "app/entry.py").rename(root / "app/start.py")
    with pytest.raises(FileNotFoundError, match=r"There is no module app\.entry below"):
        key(root)
    with pytest.raises(FileNotFoundError, match=r"There is no module app\.gone below"):
        modules_digest(["app.start"], without=["app.gone"], root=root)


def test_files_count_without_their_comments(tmp_path: Path) -> None:
    file = tmp_path / "a.cu"
    file.write_text('int a = 1; // one\n/* two\nlines */\nchar* s = "// text";\n')
    before = files_digest(["*.cu"], root=tmp_path)
    file.write_text('\nint a = 1;\n\nchar* s = "// text";\n')
    assert files_digest(["*.cu"], root=tmp_path) == before
    file.write_text('int a = 1;\nchar* s = "// texts";\n')
    assert files_digest(["*.cu"], root=tmp_path) != before
    with pytest.raises(FileNotFoundError, match=r"No source file matches 'moved/\*\.cu'"):
        files_digest(["*.cu", "moved/*.cu"], root=tmp_path)


def test_the_keys_of_the_export_reach_what_they_have_to() -> None:
    graphs = imported_modules(GRAPH_MODULES)
    assert {"models.mm_interleaved", "models.language_model", "mmfs.layer", "plugins_trt.onnx_node"} <= graphs
    assert {type(spec).__module__ for spec in COMPONENTS} | {spec.of.__module__ for spec in COMPONENTS} <= graphs
    assert not any(module.startswith(("export.engine", "export.runtime", "export.validate")) for module in graphs)
    assert {"export.graph.opset", "export.graph.float32_nodes"} <= imported_modules(LOWERING_MODULES)
    assert {"export.validate.half_precision", "export.runtime.session"} <= imported_modules(VALIDATION_MODULES)
    builder = imported_modules(BUILDER_MODULES, without=PLUGIN_MODULES)
    assert "plugins_trt.tensorrt_package" in builder
    assert "plugins_trt.aot" not in builder
