"""A new export in the place of an earlier one, and what becomes of the earlier one's engines."""

from pathlib import Path

import pytest

from export.engine import reuse
from export.engine.reuse import drop_stale, stale_files
from export.placement import replace_export, restore_export
from export.store.manifest import ComponentEntry, FileEntry, GraphEntry, read_manifest, write_manifest
from export_manifests import a_component, a_manifest, an_engine, no_engine
from models.directory_lock import directory_lock

FOLDER = "rtx-1.7"
ENGINES = {"built": an_engine(), "failed": no_engine()}


class Killed(BaseException):
    """In the place of a signal, which leaves no time to tidy up."""


def an_export(root: Path, graphs: dict[str, str], engines: dict[str, str]) -> Path:
    """With a graph of each component, and engines with a status."""
    (root / "onnx").mkdir(parents=True)
    (root / "job.json").write_text("{}")
    folder = root / "engines" / FOLDER
    components: dict[str, ComponentEntry] = {}
    for name, digest in graphs.items():
        (root / f"onnx/{name}.onnx").write_text(digest)
        (root / f"onnx/{name}.key").touch()
        components[name] = a_component(onnx=GraphEntry(FileEntry(f"onnx/{name}.onnx", 0, digest), (), 18, 1))
    for name, status in engines.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.build.log").write_text(name)
        if status == "built":
            (folder / f"{name}.plan").write_text(f"plan of {graphs[name]}")
            (folder / f"{name}.layers.json").write_text("{}")
        components[name].engines[FOLDER] = ENGINES[status]
    if engines:
        (folder / "timing.cache").write_text("tactics")
    write_manifest(root, a_manifest(components))
    return root


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An earlier export: two engines and one that could not be built."""
    graphs = {"llm": "a", "eye": "b", "vae": "c"}
    out = an_export(tmp_path / "out", graphs, {"llm": "built", "eye": "built", "vae": "failed"})
    (out / "job.json").unlink()
    return out


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A new one, whose language model is another."""
    work = an_export(tmp_path / ".out.unfinished", {"llm": "new", "eye": "b", "vae": "c"}, {})
    (work / "rounded").mkdir()
    (work / "onnx/llm.onnx.part").touch()
    return work


NEW = {
    *("manifest.json", "onnx/llm.onnx", "onnx/eye.onnx", "onnx/vae.onnx"),
    *(f"engines/{FOLDER}/{name}" for name in ("eye.plan", "eye.build.log", "eye.layers.json", "vae.build.log")),
    f"engines/{FOLDER}/timing.cache",
}


@pytest.mark.parametrize("has_links", [True, False])
def test_engines_of_graphs_that_have_changed_go(
    work: Path, out: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    if not has_links:
        monkeypatch.setattr(reuse.os, "link", refuse)
    replace_export(work, out)
    assert files(out) == NEW
    engines = {name: entry.engines for name, entry in read_manifest(out).components.items()}
    assert engines == {"llm": {}, "eye": {FOLDER: ENGINES["built"]}, "vae": {FOLDER: ENGINES["failed"]}}
    assert (out / f"engines/{FOLDER}/eye.plan").read_text() == "plan of b"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("num_renames", [0, 1])
def test_a_kill_at_any_rename_loses_nothing(
    work: Path, out: Path, num_renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(out)
    left = [num_renames]
    rename = Path.rename

    def until_killed(self: Path, target: Path) -> Path:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", until_killed)
        with pytest.raises(Killed):
            replace_export(work, out)
    restore_export(out)
    assert files(out) == before
    assert stale_files(out, read_manifest(out)) == []

    (work / "job.json").write_text("{}")  # the same command goes on
    replace_export(work, out)
    assert files(out) == NEW
    assert list(out.parent.iterdir()) == [out]


def test_what_a_killed_command_had_yet_to_remove_goes(out: Path) -> None:
    an_export(out.with_name(".out.replaced"), {"llm": "old"}, {})
    before = files(out)
    restore_export(out)
    assert list(out.parent.iterdir()) == [out]
    assert files(out) == before


def test_a_command_that_is_at_it_is_left_alone(out: Path) -> None:
    aside = out.rename(out.with_name(".out.replaced"))
    with directory_lock(aside), pytest.raises(ValueError, match="Another process is writing into"):
        restore_export(out)
    assert not out.exists()
    restore_export(out)
    assert out.is_dir()


def test_engines_that_cannot_be_told_apart_go(work: Path, out: Path) -> None:
    (out / "manifest.json").write_text("{}")
    replace_export(work, out)
    assert not (out / "engines").exists()


def test_only_what_is_stale_is_dropped(out: Path) -> None:
    manifest = read_manifest(out)
    whole = files(out)
    drop_stale(out, manifest)
    assert files(out) == whole
    manifest.components["eye"].engines[FOLDER] = no_engine("not built")
    del manifest.components["vae"]
    drop_stale(out, manifest)
    gone = {f"engines/{FOLDER}/{name}" for name in ("eye.plan", "eye.build.log", "eye.layers.json", "vae.build.log")}
    assert whole - files(out) == gone
