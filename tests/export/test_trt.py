import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

import export.pipeline
from export import stage_process, stages
from export.components.component import Component
from export.components.profiles import Limits
from export.engine.build import BuildOptions
from export.engine.compatibility import IncompatibleExport
from export.graph.onnx_graph import Graph
from export.graph.quantization import Channels
from export.process.fingerprint import file_digest
from export.process.progress import ReadProgress
from export.run import main as run
from export.runtime import Session
from export.store import job
from export.store.entries import file_entry
from export.store.job import NEUTRAL_DIR
from export.store.manifest import Outcome, read_manifest, write_manifest
from export.triton import write_repository
from export.trt import main
from export_manifests import a_component, a_manifest, an_engine
from models import MMInterleaved, MMInterleavedConfig
from models.images.image_file import open_image
from plugins_trt import tensorrt_package


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing holds no config.json"),
        (["empty"], "empty holds no config.json"),
        (["MODEL", "--images", "no.png"], "no image no.png"),
        (["MODEL", "--gpu-mem", "8"], "--gpu-mem belongs to --dry-run"),
        (["MODEL", "--stage", "lower", "--triton", "new"], "--triton serves a finished export, and --stage lower ends"),
        (["MODEL", "--triton", "empty"], "empty exists. Name a new directory for the model repository"),
        (["MODEL", "--triton-kind", "onnx"], "--triton-kind belongs to --triton DIR"),
        (["MODEL", "--stage", "lower", "--builder", "rtx"], "--builder would change nothing with --stage lower"),
        (
            ["MODEL", "--plugin", "library", "--plugin-library", "plugin.so", "--function-fallback", "llm"],
            "--plugin, --plugin-library, --function-fallback would change nothing with --stage validate",
        ),
        (["MODEL", "--max-past", "9", "--dynamic-unet"], "--max-past, --dynamic-unet would change nothing"),
        (["MODEL", "--components", "llm", "--torch-fallback", "llm"], "llm: named in --components, which exports, and"),
    ],
    ids=[
        *("no-directory", "not-a-model", "no-image"),
        *("memory-of-nothing", "nothing-to-serve", "served-already", "serving-nothing"),
        *("no-stage-for-a-builder", "no-stage-for-plugins", "no-stage-for-sizes", "both-ways"),
    ],
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


@pytest.mark.usefixtures("in_this_process")
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
        (["--stage", "build", "--plugin", "so"], "invalid choice: 'so' (choose from"),
        (["--flavour", "ort"], "--flavour is called --kv-cache now."),
    ],
    ids=["stage", "precision", "builder", "plugin", "renamed"],
)
def test_what_does_not_exist_is_refused(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(model_dir), "--out", str(tmp_path / "out"), *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("stage", [["--stage", "build"], []], ids=["named", "by-builder"])
@pytest.mark.parametrize("builder", ["tensorrt", "rtx"])
def test_a_missing_builder_is_said_before_anything_is_traced(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    builder: str,
    stage: list[str],
) -> None:
    monkeypatch.setattr(tensorrt_package, "find_spec", lambda name: None)
    out = tmp_path / "out"
    assert main([str(model_dir), "--out", str(out), *stage, "--builder", builder]) == 2
    assert f"pip install 'mmfs[{tensorrt_package.EXTRAS[builder]}]'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--builder", "rtx", "--plugin", "aot"], "TensorRT-RTX has no ahead-of-time plugins. Take --plugin python"),
        (["--plugin", "library"], "--plugin library and --plugin-library FILE belong together"),
        (["--plugin-library", "plugin.so"], "--plugin library and --plugin-library FILE belong together"),
    ],
    ids=["aot-rtx", "no-file", "no-plugin-kind"],
)
def test_plugins_that_a_builder_does_not_take_are_refused_before_anything_is_traced(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert main([str(model_dir), "--out", str(out), "--stage", "build", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_place_that_nothing_can_grow_beside_is_refused(
    model_dir: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert main([str(model_dir), "--out", out]) == 2
    assert f"--out is {out}. Expected a directory by its name" in capsys.readouterr().err


def test_limits_that_cannot_be_are_refused(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(model_dir), "--out", str(tmp_path / "out"), "--stage", "build", "--max-images", "0"]
    assert main(arguments) == 2
    assert "max_images is 0. Expected at least 1" in capsys.readouterr().err


def test_graphs_are_made_again_only_where_something_has_changed(
    exported: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[tuple[Path, BuildOptions]] = []
    traced: list[Path] = []
    monkeypatch.setattr(export.pipeline, "open_package", lambda builder: None)
    monkeypatch.setattr(export.pipeline, "build_engines", lambda root, options, log: built.append((root, options)))
    monkeypatch.setattr(export.pipeline, "export_graphs", lambda job, out, *_: traced.append(out))
    copy = tmp_path / "model"
    shutil.copytree(model_dir, copy)
    command = ["--out", str(exported), "--stage", "build", "--builder", "rtx"]
    more = ["--components", "llm,unet_mmfs", "--function-fallback", "llm", "--max-images", "3", "--dynamic-unet"]
    more += ["--plugin", "python"]
    assert main([str(copy), *command, *more]) == 0
    assert traced == []
    expected = BuildOptions(
        "rtx",
        Limits(max_images=3, dynamic_unet=True),
        ("llm", "unet_mmfs"),
        function_fallback=("llm",),
        plugin="python",
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
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stages run here."""

    def run_here(module: str, arguments: list[str], *, on_line: Callable[[str], None], **_options: object) -> None:
        assert module == "export.stage_process"
        on_line(f"stage {arguments[0]}")
        stage_process.main(arguments)

    monkeypatch.setattr(export.pipeline, "run_child", run_here)


@pytest.fixture
def without_tracing(exported: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: None) -> Callable[[str], None]:
    """Let them take graphs that were traced before; spoil the one that is named."""

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
    assert "3 texts equal; 3 images" in capsys.readouterr().out

    # Killed when the earlier export was out of the way and the new one not in its place.
    manifest = (out / "manifest.json").read_bytes()
    out.rename(tmp_path / ".out.unfinished")
    (tmp_path / ".out.replaced").mkdir()
    assert main([str(model_dir), "--out", str(out)]) == 0
    assert "stage validate" not in capsys.readouterr().out
    assert (out / "manifest.json").read_bytes() == manifest
    for entry in read_manifest(out).components.values():
        assert file_digest(out / entry.onnx.file.path) == entry.onnx.file.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_link_points_to_is_replaced(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown: list[tuple[Path, Path]] = []
    monkeypatch.setattr(export.pipeline, "export_graphs", lambda job, out, *_: grown.append((Path(job.work), out)))
    large_disk = tmp_path.resolve() / "large disk"
    (large_disk / "export").mkdir(parents=True)
    (tmp_path / "out").symlink_to(large_disk / "export")
    assert main([str(model_dir), "--out", str(tmp_path / "out")]) == 0
    assert grown == [(large_disk / ".export.unfinished", large_disk / "export")]


def test_a_long_look_at_a_model_says_how_far_it_is(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export.pipeline, "export_graphs", lambda *_: None)
    monkeypatch.setattr(job, "ReadProgress", partial(ReadProgress, interval_s=0.0))
    assert main([str(model_dir), "--out", str(tmp_path / "out")]) == 0
    assert f" s, checking {model_dir}: 0.0 of 0.0 GB; about 0 s left\n" in capsys.readouterr().out


def test_a_part_of_a_model_is_exported_and_grows(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_tracing: Callable[[str], None]
) -> None:
    out = tmp_path / "out"
    without_tracing("none")
    assert main([str(model_dir), "--out", str(out), "--components", "vae_decoder,lmm"]) == 2
    assert "There is no component lmm. The model has image_tokenizer, " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    assert main([str(model_dir), "--out", str(out), "--components", "vae_decoder,mmfs_values_llm"]) == 0
    assert "[3/3] no writing and drawing: " in capsys.readouterr().out
    manifest = read_manifest(out)
    assert list(manifest.components) == ["mmfs_values_llm", "vae_decoder"]
    assert {file.stem for file in (out / "onnx").iterdir()} == {"mmfs_values_llm", "vae_decoder"}
    others = ["image_tokenizer", "mmfs_values_unet", "llm", "context_resampler", "unet_mmfs"]
    assert list(manifest.not_exported) == others
    assert manifest.not_done[0] == f"not exported: {', '.join(others)}"
    why = f"{', '.join(others)} were not exported, and not left to PyTorch with --torch-fallback"
    assert manifest.generation == Outcome("not run", why)
    part = ["--components", "vae_decoder,mmfs_values_llm"]
    assert main([str(model_dir), "--out", str(out), *part, "--stage", "bench"]) == 2
    assert f"{out} cannot write or draw without" in capsys.readouterr().err
    assert run([str(out), "--prompt", "draw"]) == 2
    refused = capsys.readouterr().err
    assert f"{out} cannot write or draw without {', '.join(others)}, which were not exported." in refused
    command = f"--out {out} --components mmfs_values_llm,vae_decoder --torch-fallback {','.join(others)}"
    assert command in refused

    plan = out / "engines/rtx-1.7/vae_decoder.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"hours of work")
    built = {"rtx-1.7": an_engine(plan=file_entry(plan, out))}
    manifest.components["vae_decoder"].engines.update(built)
    write_manifest(out, manifest)
    left = [name for name in others if name != "context_resampler"]
    more = ["--components", "context_resampler", "--torch-fallback", ",".join(left)]
    assert main([str(model_dir), "--out", str(out), *more]) == 0
    printed = capsys.readouterr().out
    assert f"[4/4] writing and drawing with the files and PyTorch for {', '.join(left)} ..." in printed
    assert "3 texts equal; 3 images" in printed
    manifest = read_manifest(out)
    assert list(manifest.components) == ["mmfs_values_llm", "context_resampler", "vae_decoder"]
    assert manifest.components["vae_decoder"].engines == built, "its graph is the same"
    assert plan.read_bytes() == b"hours of work"
    assert (manifest.left_to_pytorch, manifest.not_exported) == (tuple(left), ())
    document = ["--prompt", "draw", "--max-new-tokens", "6", "--num-inference-steps", "2"]
    assert run([str(out), *document]) == 2
    assert f"{', '.join(left)} was left to PyTorch with --torch-fallback" in capsys.readouterr().err
    assert run([str(out), *document, "--model", str(model_dir), "--compare", str(model_dir)]) == 0
    assert "equal to PyTorch" in capsys.readouterr().out


def test_the_command_that_a_refusal_prints_is_whole_and_makes_the_export_again(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without_tracing: Callable[[str], None],
) -> None:
    without_tracing("none")
    out, elsewhere = tmp_path / "my export", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(model_dir, tmp_path / "my model")
    monkeypatch.chdir(tmp_path)
    options = ["--components", "vae_decoder", "--images", "my model/samples/0.png", "my model/samples/1.png"]
    assert main(["my model", "--out", str(out), *options]) == 0
    before = (out / "manifest.json").read_bytes()
    graph = out / "onnx/vae_decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    capsys.readouterr()

    monkeypatch.chdir(elsewhere)
    with pytest.raises(IncompatibleExport, match="it was cut") as refused:
        write_repository(out, tmp_path / "served", "onnx")
    command = str(refused.value).partition("Make it again: python -m export.trt ")[2]
    assert main(shlex.split(command)) == 0
    assert "2 images given on the command line" in capsys.readouterr().out
    assert (out / "manifest.json").read_bytes() == before
    assert write_repository(out, tmp_path / "served", "onnx") == ["vae_decoder"]

    shutil.rmtree(tmp_path / "my model")
    graph.unlink()
    with pytest.raises(
        IncompatibleExport, match=r"again, with the model's place instead of .*/my model, which is not here: "
    ):
        write_repository(out, tmp_path / "served again", "onnx")


@pytest.mark.usefixtures("in_this_process")
def test_a_part_does_not_grow_the_export_of_another_model(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_manifest(out, a_manifest({"llm": a_component(), "eyes": a_component()}))
    earlier = (out / "manifest.json").read_text()
    assert main([str(model_dir), "--out", str(out), "--components", "vae_decoder"]) == 2
    refused = capsys.readouterr().err
    assert "The export that is in --out already is of another model: it has eyes, and this model has " in refused
    assert (out / "manifest.json").read_text() == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_few_layers_are_compared_with_as_many(
    model_dir: Path, components: dict[str, Component], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    others = ",".join(name for name in components if name != "llm")
    options = ["--few-layers", "1", "--components", "llm", "--torch-fallback", others]
    assert main([str(model_dir), "--out", str(out), *options]) == 0
    assert "3 texts equal; 3 images" in capsys.readouterr().out
    assert read_manifest(out).components["llm"].num_mmfs_nodes == {"MMFS": 1}
    document = ["--prompt", "draw", "--max-new-tokens", "6", "--num-inference-steps", "2"]
    assert run([str(out), *document, "--model", str(model_dir), "--compare", str(model_dir)]) == 0
    assert "equal to PyTorch" in capsys.readouterr().out


@pytest.mark.slow
def test_half_precision_is_proved_and_said(
    model_dir: Path, tmp_path: Path, without_tracing: Callable[[str], None]
) -> None:
    out = tmp_path / "out"
    without_tracing("none")
    assert main([str(model_dir), "--out", str(out), "--precision", "bfloat16"]) == 0
    assert {path.name for path in out.iterdir()} == {"onnx", "assets", NEUTRAL_DIR, "manifest.json"}
    manifest = read_manifest(out)
    assert manifest.how.precision == "bfloat16"
    llm = manifest.components["llm"]
    assert {port.name: port.dtype for port in llm.inputs}["inputs_embeds"] == "bfloat16"
    assert {port.name: port.dtype for port in llm.outputs}["logits"] == "float32"
    assert llm.validation.num_greedy_tokens > 8
    assert 0 < llm.validation.max_relative_error < 0.02
    assert manifest.generation.worst_psnr_db >= 30


def test_scales_that_are_wrong_by_two_leave_nothing_behind(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without_tracing: Callable[[str], None],
) -> None:
    without_tracing("none")
    finish = Channels.finish

    def finish_wrong(self: Channels) -> None:
        finish(self)
        doubled = onnx.numpy_helper.to_array(self.scales) * np.float32(2)
        self.scales.raw_data = doubled.tobytes()

    monkeypatch.setattr(Channels, "finish", finish_wrong)
    options = ["--components", "llm", "--llm-weights", "int8"]
    assert main([str(model_dir), "--out", str(tmp_path / "deep/out"), *options]) == 1
    refused = capsys.readouterr().err
    assert "llm, case '3 whole documents': output " in refused
    assert refused.endswith("With --llm-weights same it may pass.\n")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.slow
def test_a_language_model_of_eight_bits_is_proved_said_and_writes(
    model_dir: Path,
    components: dict[str, Component],
    unchanged_model: MMInterleaved,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    without_tracing: Callable[[str], None],
) -> None:
    out = tmp_path / "out"
    without_tracing("none")
    others = ",".join(name for name in components if name != "llm")
    options = ["--components", "llm", "--torch-fallback", others, "--llm-weights", "int8"]
    assert main([str(model_dir), "--out", str(out), *options]) == 0
    assert "3 of 3 documents written on with the same 32 tokens" in capsys.readouterr().out
    manifest = read_manifest(out)
    assert manifest.how.llm_weights == "int8"
    llm = manifest.components["llm"]
    assert llm.quantized.scheme == "int8, symmetric, a scale per output channel"
    assert 3 < llm.quantized.bytes_before / llm.quantized.bytes_after < 4, "float32 before"
    checked = llm.validation
    assert checked.tolerance == {"cosine": 0.99, "norm": 0.05, "perplexity": 0.01}
    assert checked.likelihood.perplexity == pytest.approx(checked.likelihood.pytorch_perplexity, rel=0.01)
    assert [one.text == one.pytorch_text for one in checked.greedy] == [True] * 3

    session = Session.open(out, "ort", model=unchanged_model)
    document = [open_image(model_dir / "samples/0.png"), "what is it"]
    found, expected = (one.generate(document, mode="text", max_new_tokens=8) for one in (session, unchanged_model))
    assert found.text == expected.text != ""


def test_bench_and_serving_come_last(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, repository = tmp_path / "out", tmp_path / "served"
    done: list[object] = []
    monkeypatch.setattr(export.pipeline, "is_up_to_date", lambda *_: True)
    monkeypatch.setattr(export.pipeline, "read_manifest", lambda _: a_manifest({}))
    monkeypatch.setattr(export.pipeline, "run_child", lambda module, arguments, **_: done.append((module, arguments)))
    monkeypatch.setattr(export.pipeline, "write_repository", lambda *given: [done.append(given), "llm"][1:])
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
    printed = capsys.readouterr().out
    assert "checking with seeded noise" in printed
    assert "2 texts equal; 2 images" in printed
    decoder = onnx.load(tmp_path / "out/onnx/vae_decoder.onnx")
    assert "Conv" in {node.op_type for node in decoder.graph.node}
