import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import export.trt
from export import stage_process, stages
from export.components import Component
from export.engines import BuildOptions
from export.manifest import read_manifest
from export.onnx_graph import Graph
from export.profiles import Limits
from export.stages import NEUTRAL_DIR
from export.trt import main
from models import MMInterleaved, MMInterleavedConfig
from plugins_trt import tensorrt_package


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing holds no config.json"),
        (["empty"], "empty holds no config.json"),
        (["MODEL", "--images", "no.png"], "no picture no.png"),
    ],
    ids=["no-directory", "not-a-model", "no-picture"],
)
def test_wrong_arguments_end_in_a_sentence(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    arguments = [str(model_dir) if argument == "MODEL" else argument for argument in arguments]
    assert main([*arguments, "--out", "out"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_model_without_a_processor_is_refused(
    model: MMInterleaved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.processor = None
    model.save_pretrained(tmp_path / "model")
    assert main([str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 2
    assert "holds no processor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "fly"], "invalid choice: 'fly' (choose from"),
        (["--precision", "int3"], "invalid choice: 'int3' (choose from"),
        (["--stage", "build", "--builder", "trt"], "invalid choice: 'trt' (choose from"),
    ],
    ids=["stage", "precision", "builder"],
)
def test_what_does_not_exist_is_refused(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(model_dir), "--out", str(tmp_path / "out"), *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("builder", ["tensorrt", "rtx"])
def test_a_missing_builder_is_said_before_anything_is_traced(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    builder: str,
) -> None:
    monkeypatch.setattr(tensorrt_package, "find_spec", lambda name: None)
    out = tmp_path / "out"
    assert main([str(model_dir), "--out", str(out), "--stage", "build", "--builder", builder]) == 2
    assert f"pip install 'mmfs[{tensorrt_package.EXTRAS[builder]}]'" in capsys.readouterr().err
    assert not out.exists()


def test_limits_that_cannot_be_are_refused(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(model_dir), "--out", str(tmp_path / "out"), "--stage", "build", "--max-images", "0"]
    assert main(arguments) == 2
    assert "max_images is 0. Expected at least 1" in capsys.readouterr().err


def test_graphs_are_made_again_only_where_something_has_changed(
    exported: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[tuple[Path, BuildOptions]] = []
    traced: list[Path] = []
    monkeypatch.setattr(export.trt, "open_package", lambda builder: None)
    monkeypatch.setattr(export.trt, "build_engines", lambda root, options, say: built.append((root, options)))
    monkeypatch.setattr(export.trt, "export_graphs", lambda job, out, *_: traced.append(out))
    copy = tmp_path / "model"
    shutil.copytree(model_dir, copy)
    command = ["--out", str(exported), "--stage", "build", "--builder", "rtx"]
    more = ["--components", "llm,unet_mmfs", "--function-fallback", "llm", "--max-images", "3", "--dynamic-unet"]
    assert main([str(copy), *command, *more]) == 0
    assert traced == []
    expected = BuildOptions(
        "rtx", Limits(max_images=3, dynamic_unet=True), ("llm", "unet_mmfs"), function_fallback=("llm",)
    )
    assert built == [(exported, expected)]
    assert f"{exported} holds the graphs of this model" in capsys.readouterr().out

    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert main([str(copy), *command]) == 0
    assert traced == [exported]


def test_a_directory_with_something_else_is_kept(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main([str(model_dir), "--out", str(tmp_path)]) == 2
    assert "is no earlier export" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def without_tracing(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the stages run in this process, on graphs that were traced before; spoil the one that is named."""

    def run_here(module: str, arguments: list[str], *, said: Callable[[str], None], **_options: object) -> None:
        assert module == "export.stage_process"
        said(f"stage {arguments[0]}")
        stage_process.main(arguments)

    def install(spoiled: str) -> None:
        def load(component: Component, _stored: object) -> Graph:
            proto = onnx.load(exported / NEUTRAL_DIR / f"{component.name}.onnx")
            if component.name == spoiled:
                for tensor in proto.graph.initializer:
                    if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
                        values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
                        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            return Graph.of(proto)

        monkeypatch.setattr(stages, "to_onnx", load)
        monkeypatch.setattr(export.trt, "run_child", run_here)
        monkeypatch.setattr(stage_process, "end_with_parent", lambda: None)

    return install


def test_a_component_that_differs_leaves_nothing_behind(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_tracing: Callable[[str], None]
) -> None:
    without_tracing("llm")
    assert main([str(model_dir), "--out", str(tmp_path / "deep/out")]) == 1
    captured = capsys.readouterr()
    assert "nothing was written" in captured.err
    assert "llm, case '3 whole documents': output logits is off by" in captured.err
    assert "[4/7] llm" in captured.out
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_earlier_export_is_replaced_whole_or_kept_whole(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_tracing: Callable[[str], None]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("{}")
    without_tracing("llm")
    assert main([str(model_dir), "--out", str(out)]) == 1
    assert (out / "manifest.json").read_text() == "{}"
    without_tracing("none")
    assert main([str(model_dir), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"onnx", "assets", NEUTRAL_DIR, "manifest.json"}
    assert (out / "manifest.json").read_text() != "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "3 texts equal; 3 pictures" in capsys.readouterr().out


@pytest.mark.slow
def test_half_precision_is_proved_and_said(
    model_dir: Path, tmp_path: Path, without_tracing: Callable[[str], None]
) -> None:
    out = tmp_path / "out"
    without_tracing("none")
    assert main([str(model_dir), "--out", str(out), "--precision", "bfloat16"]) == 0
    assert {path.name for path in out.iterdir()} == {"onnx", "assets", NEUTRAL_DIR, "manifest.json"}
    manifest = read_manifest(out)
    assert manifest["how"] == {"precision": "bfloat16", "few_layers": None}
    llm = manifest["components"]["llm"]
    assert {port["name"]: port["dtype"] for port in llm["inputs"]}["inputs_embeds"] == "bfloat16"
    assert {port["name"]: port["dtype"] for port in llm["outputs"]}["logits"] == "float32"
    assert llm["validation"]["num_greedy_tokens"] > 8
    assert 0 < llm["validation"]["max_relative_error"] < 0.02
    assert manifest["generation"]["worst_psnr_db"] >= 30


def test_bench_and_serving_come_last(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, repository = tmp_path / "out", tmp_path / "served"
    done: list[object] = []
    monkeypatch.setattr(export.trt, "is_up_to_date", lambda *_: True)
    monkeypatch.setattr(export.trt, "run_child", lambda module, arguments, **_: done.append((module, arguments)))
    monkeypatch.setattr(export.trt, "write_repository", lambda *given: [done.append(given), "llm"][1:])
    assert main([str(model_dir), "--out", str(out), "--stage", "bench", "--triton", str(repository)]) == 0
    measured = ("export.bench", [str(out), "--model", str(model_dir), "--json", str(out / "bench.json")])
    assert done == [measured, (out, repository, "onnx")]
    assert f"{repository} serves llm" in capsys.readouterr().out


@pytest.mark.slow
def test_all_of_tiny_with_its_vae(
    make_model: Callable[[MMInterleavedConfig], MMInterleaved], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(MMInterleavedConfig.tiny()).save_pretrained(tmp_path / "model")
    assert main([str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "checking with seeded noise" in said
    assert "2 texts equal; 2 pictures" in said
    decoder = onnx.load(tmp_path / "out/onnx/vae_decoder.onnx")
    assert "Conv" in {node.op_type for node in decoder.graph.node}
