import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import export.pipeline
from export import stage_process
from export.command_line import GRAPH_STAGES
from export.graph.onnx_graph import GraphError
from export.graph.truncate import truncate_layers
from export.pipeline import export_graphs
from export.process import child_process
from export.process.child_process import ROOT, ChildError
from export.process.fingerprint import file_digest
from export.stage_process import ERROR_FILE, raise_error
from export.stages import lower
from export.store.job import NEUTRAL_DIR, Job
from export.store.manifest import read_manifest
from export.trt import main
from models import MMInterleaved
from models.directory_lock import directory_lock

KILLED_AT = {
    "onnx": "[7/7] vae_decoder ...",
    "lower": "[2/7] image_tokenizer: float32",
    "validate": "[2/8] mmfs_values_llm ...",
}
"""The line of a stage at which its process is killed: work of more than a second begins there."""


def job_of(model_dir: Path, out: Path, **options: object) -> Job:
    return Job.of(model_dir, out.with_name(f".{out.name}.unfinished"), out, **options)


def children_of(process: int) -> list[int]:
    """Those that run our programs; tests before this one may have left servers that others share."""
    children: list[str] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            children += (task / "children").read_text().split()
    return [int(child) for child in children if "-m export." in command_line_of(int(child))]


def command_line_of(process: int) -> str:
    """Of one that has ended, even if nobody has asked how: nothing."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def kill_children() -> None:
    """Of this process, as the system does when memory runs out."""
    for child in children_of(os.getpid()):
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_what_is_killed_goes_on_where_it_was(exported: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported / NEUTRAL_DIR, out / NEUTRAL_DIR)  # so that only one component is traced for this test
    (out / NEUTRAL_DIR / "vae_decoder.onnx").unlink()
    (out / "manifest.json").write_text("{}")
    job = job_of(model_dir, out)
    half_written = {
        "onnx": Path(job.work) / NEUTRAL_DIR / "vae_decoder.onnx.part",
        "lower": Path(job.work) / "onnx/llm.onnx.part",
    }
    for file in half_written.values():
        file.parent.mkdir(parents=True)
        os.mkfifo(file)  # nobody reads it: whoever writes waits
    for stage, line in KILLED_AT.items():
        lines: list[str] = []

        def log(text: str, line: str = line, lines: list[str] = lines) -> None:
            lines.append(text)
            if text.startswith(line):
                kill_children()

        with pytest.raises(ChildError, match=r"was ended by signal 9\..* What was done is kept in .*\.out\.unfinished"):
            export_graphs(job, out, GRAPH_STAGES, log)
        assert (out / "manifest.json").read_text() == "{}", "the earlier export stands until all is proved"
        assert any(text.startswith(line) for text in lines), stage
        if stage in half_written:
            half_written[stage].unlink()
            half_written[stage].write_bytes(b"half a graph")

    lines = []
    export_graphs(job, out, GRAPH_STAGES, lines.append)
    done = [text for text in lines if text.startswith("[")]  # a heartbeat repeats the last line behind the seconds
    names = json_names(exported)
    assert [text for text in done if text.endswith(" before")] == [
        *(f"[{number}/7] {name}: traced before" for number, name in enumerate(names, start=1)),
        *(f"[{number}/7] {name}: lowered before" for number, name in enumerate(sorted(names), start=1)),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for file in sorted((exported / "onnx").glob("*.onnx")):
        assert file_digest(out / "onnx" / file.name) == file_digest(file)


def test_a_graph_is_lowered_again_when_the_weights_that_it_points_to_have_changed(
    exported: Path, model_dir: Path, tmp_path: Path
) -> None:
    job = job_of(model_dir, tmp_path / "out")
    neutral = Path(job.work) / NEUTRAL_DIR
    neutral.mkdir(parents=True)
    shutil.copy(exported / NEUTRAL_DIR / "vae_decoder.onnx", neutral)
    lines: list[str] = []
    for one in (job, job, replace(job, graph_key="of other weights")):
        lower(one, lines.append)
    assert lines == [f"[1/1] vae_decoder: {what}" for what in ("float32", "lowered before", "float32")]


def test_what_was_half_lowered_is_lowered_again(exported: Path, model_dir: Path, tmp_path: Path) -> None:
    job = job_of(model_dir, tmp_path / "out", precision="float16")
    work = Path(job.work)
    shutil.copytree(exported / NEUTRAL_DIR, work / NEUTRAL_DIR)
    lower(job, lambda _line: None)
    graph, key = work / "onnx/llm.onnx", work / "onnx/llm.key"
    whole = file_digest(graph)
    graph.write_bytes(graph.read_bytes()[:100])
    key.with_suffix(".key.part").write_text("{")
    lines: list[str] = []
    lower(job, lines.append)
    assert [text for text in lines if not text.endswith(": lowered before")] == ["[3/7] llm: float16"]
    assert file_digest(graph) == whole


@contextmanager
def command(model_dir: Path, out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A real one, which does not outlive the test; its lines can be read."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    whole = [sys.executable, "-m", "export.trt", str(model_dir), "--out", str(out), *options]
    pipe, to_stdout = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(whole, stdout=pipe, stderr=to_stdout, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + 600
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
def test_a_command_that_is_killed_while_it_builds_leaves_no_engine(
    exported: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    before = (out / "manifest.json").read_bytes()
    options = ["--stage", "build", "--builder", "rtx", "--components", "vae_decoder"]
    with command(model_dir, out, *options) as building:
        wait_for(lambda: building.poll() is not None or any((out / "engines").rglob(".build-*/log")))
        assert building.poll() is None, building.communicate()[0]
        (child,) = children_of(building.pid)
    wait_for(lambda: not command_line_of(child))  # it goes with the command
    assert (out / "manifest.json").read_bytes() == before
    assert not list(out.rglob("*.plan"))
    assert list(out.rglob(".build-*"))

    assert main([str(model_dir), "--out", str(out), *options]) == 0
    assert not list(out.rglob(".build-*"))
    ((_, engine),) = read_manifest(out).components["vae_decoder"].engines.items()
    assert engine.status == "built"
    assert file_digest(out / engine.plan.path) == engine.plan.sha256


@pytest.mark.slow
def test_a_bench_that_is_killed_leaves_no_figures(
    exported: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)

    def run_child(module: str, arguments: list[str], *, on_line: Callable[[str], None], **options: Any) -> None:
        def kill_after(line: str) -> None:
            on_line(line)
            if line.startswith("[2/3] tokens written by PyTorch"):
                kill_children()

        child_process.run_child(module, arguments, on_line=kill_after, **options)

    monkeypatch.setattr(export.pipeline, "run_child", run_child)
    files = {file: file_digest(file) for file in out.rglob("*.*") if file.is_file()}
    assert main([str(model_dir), "--out", str(out), "--stage", "bench"]) == 1
    assert "was ended by signal 9. It wrote last: " in capsys.readouterr().err
    assert {file: file_digest(file) for file in out.rglob("*.*") if file.is_file()} == files


@pytest.mark.slow
def test_two_commands_at_once(
    exported: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        shutil.copytree(exported / NEUTRAL_DIR, out / NEUTRAL_DIR)
        (out / "manifest.json").write_text("{}")
    only = "--stage", "onnx"
    key = tmp_path / ".a.unfinished" / NEUTRAL_DIR / "image_tokenizer.key"
    key.parent.mkdir(parents=True)
    os.mkfifo(key)
    held = os.open(key, os.O_RDWR)  # as long as that is open, whoever reads it waits, and the first command with it
    with command(model_dir, outs[0], *only) as first, command(model_dir, outs[1], *only) as second:
        wait_for((tmp_path / ".a.unfinished/job.json").is_file)
        assert main([str(model_dir), "--out", str(outs[0]), *only]) == 2
        assert f"Another process is writing into {tmp_path / '.a.unfinished'}" in capsys.readouterr().err
        key.unlink()
        os.close(held)
        ends = [(process.communicate()[0], process.returncode) for process in (first, second)]
    for out, (printed, status) in zip(outs, ends, strict=True):
        assert status == 0, printed
        assert "--stage validate goes on" in printed
        for file in sorted((exported / NEUTRAL_DIR).glob("*.onnx")):
            assert file_digest(out.with_name(f".{out.name}.unfinished") / NEUTRAL_DIR / file.name) == file_digest(file)


def json_names(exported: Path) -> list[str]:
    return list(json.loads((exported / "manifest.json").read_text())["components"])


def test_two_at_once_do_not_meet(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / ".out.unfinished"
    work.mkdir()
    (work / "of-the-other.onnx").write_text("half a graph")
    with directory_lock(work):
        assert main([str(model_dir), "--out", str(tmp_path / "out")]) == 2
    assert f"Another process is writing into {work}. Wait for it, or name another directory." in capsys.readouterr().err
    assert (work / "of-the-other.onnx").read_text() == "half a graph"


def test_a_job_survives_its_file(model_dir: Path, tmp_path: Path) -> None:
    job = job_of(model_dir, tmp_path / "out", images=[tmp_path / "a.png"], precision="bfloat16", few_layers=1)
    Path(job.work).mkdir()
    assert Job.load(job.save()) == job


def test_keys_follow_what_they_depend_on(model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model_dir, copy)
    job = job_of(copy, tmp_path / "out")
    half, short = job_of(copy, tmp_path / "out", precision="float16"), job_of(copy, tmp_path / "out", few_layers=1)
    assert half.graph_key == job.graph_key != short.graph_key
    small = job_of(copy, tmp_path / "out", llm_weights="int8")
    assert small.graph_key == job.graph_key
    assert len({job.key, half.key, short.key, small.key}) == 4
    (copy / "samples/samples.json").write_text("[]")
    assert job_of(copy, tmp_path / "out").graph_key == job.graph_key
    assert job_of(copy, tmp_path / "out").key != job.key
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert job_of(copy, tmp_path / "out").graph_key != job.graph_key


@pytest.mark.parametrize("error", [GraphError("no graph"), ValueError("no value"), FileNotFoundError("no file")])
def test_an_error_of_a_stage_crosses_the_border(
    monkeypatch: pytest.MonkeyPatch, model_dir: Path, tmp_path: Path, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    job = job_of(model_dir, tmp_path / "out")
    Path(job.work).mkdir()
    monkeypatch.setitem(stage_process.STAGES, "onnx", fail)
    stage_process.main(["onnx", str(job.save())])
    with pytest.raises(type(error), match=str(error)):
        raise_error(Path(job.work))
    assert not (Path(job.work) / ERROR_FILE).exists()
    raise_error(Path(job.work))


def test_few_layers(model: MMInterleaved) -> None:
    text = torch.tensor([[1, 5, 6, 7]])
    truncate_layers(model, 1)
    language_model = model.language_model
    assert len(language_model.decoder.layers) == len(language_model.synchronizers) == 1
    with torch.no_grad():
        hidden = language_model.decoder(input_ids=text, use_cache=False).last_hidden_state
    assert hidden.isfinite().all()
    with pytest.raises(ValueError, match=r"--few-layers is 2\. Expected 1 to 1, as many layers"):
        truncate_layers(model, 2)


def test_stages_before_the_last_leave_their_work(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: list[str] = []
    monkeypatch.setattr(export.pipeline, "run_child", lambda module, arguments, **_: run.append(arguments[0]))
    monkeypatch.setattr(export.pipeline.Progress, "save", lambda self, folder: None)
    work = tmp_path / ".out.unfinished"
    work.mkdir()
    (work / ERROR_FILE).write_text('[3, "what an earlier command would have said')
    assert main([str(model_dir), "--out", str(tmp_path / "out"), "--stage", "lower"]) == 0
    assert run == ["onnx", "lower"]
    assert "--stage validate goes on" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
