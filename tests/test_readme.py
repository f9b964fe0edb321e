"""What the README and the pages behind it show runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import onnxruntime
import pytest
import torch

import mmfs
import mmfs.onnxruntime
from bench.transformers_models import SMALL, deformable_detr, make

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def run_example(page: str, containing: str, folder: Path, **given: object) -> dict[str, object]:
    """The names that the one block of Python with these words leaves behind."""
    examples = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
    [example] = [text for text in examples if containing in text]
    file = folder / "example.py"
    file.write_text(example)
    return runpy.run_path(str(file), init_globals=given)


def test_the_layer_example_runs(tmp_path: Path) -> None:
    out = run_example("README.md", "from mmfs import MMFS", tmp_path)["out"]
    assert isinstance(out, torch.Tensor)
    assert out.shape == (2, 5, 256)
    assert out.requires_grad


def test_the_line_for_models_of_transformers_replaces_their_attention(tmp_path: Path) -> None:
    model = make(deformable_detr, SMALL).model
    run_example("README.md", "mmfs.replace_attention(model)", tmp_path, model=model)
    assert len(mmfs.restore_attention(model)) == 4


def test_the_example_of_lists_of_images_runs(tmp_path: Path) -> None:
    names = run_example("image_lists.md", "image_indices=lists", tmp_path)
    assert names["out"].shape == (1, 100, 256)
    (gradient,) = torch.autograd.grad(names["out"].square().sum(), names["places"])
    assert gradient.ne(0).any(-1).eq(names["seen"]).all(), "of the places of images that are seen"


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own exporter
def test_the_example_of_an_export_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_example("export.md", "translation_table", tmp_path)
    query, centre, visible, values = (names[name] for name in ("query", "centre", "visible", "values"))
    given = {"query": query, "reference_points": centre, "visible": visible, "values": values}
    sessions = [onnxruntime.InferenceSession("layer.onnx", providers=["CPUExecutionProvider"])]
    if mmfs.onnxruntime.why_not() is None:
        sessions.append(run_example("export.md", "mmfs.onnxruntime.register(options)", tmp_path)["session"])
    for session in sessions:
        [out] = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(out), names["layer"](query, centre, visible, values=values))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_heading_it_points_to_is_there(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page))
    assert targets or page != "README.md"
    for target in targets:
        path, _, anchor = target.partition("#")
        file = PAGES[page].parent / path if path else PAGES[page]
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_its_map_names_every_folder() -> None:
    folders = re.findall(r"^\| `([\w/]+)/` \|", text_of("README.md"), re.MULTILINE)
    assert folders == ["mmfs", "models", "trainer", "plugins_trt", "export", "bench", "examples", "tests", "docs"]
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_every_module_it_runs_exists() -> None:
    every_page = "\n".join(map(text_of, PAGES))
    modules = set(re.findall(r"-m ((?:mmfs|models|trainer|export|bench|examples)(?:\.\w+)*)", every_page))
    assert {"trainer.pretrain", "export.trt", "mmfs", "models.convert"} <= modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
