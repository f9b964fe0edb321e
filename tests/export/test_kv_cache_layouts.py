"""The language model with a cache that is written in place; the rest of the tests have the other KV-cache layout."""

import shutil
from pathlib import Path

import onnx
import pytest
from PIL import Image

import export.pipeline
import export.trt
from export.components.check_inputs import Case
from export.components.component import Component
from export.components.profiles import Limits
from export.engine.build import BuildOptions, build_engines
from export.engine.build_process import graph_for_tensorrt
from export.formats import KVCacheLayout, Precision
from export.graph.kv_cache import lower_attention, with_kv_cache_layout
from export.graph.onnx_graph import Graph
from export.graph.precision import lower_precision, with_precision
from export.runtime import Session
from export.stages import lower
from export.store.entries import component_entry
from export.store.job import NEUTRAL_DIR, Job
from export.store.manifest import read_manifest, write_manifest
from export.store.selection import ComponentSelection
from export.validate.end_to_end import compare
from export.validate.half_precision import check_greedy, check_half, check_seeing
from export.validate.parity import ParityError
from export.validate.validate import run_of, validate
from export_manifests import a_component, a_manifest
from models import MMInterleaved
from models.images.image_file import open_image

CAPACITY = 512
CAPACITIES: dict[KVCacheLayout, int | None] = {"trt_native": CAPACITY, "ort": None}


@pytest.fixture(scope="module", params=CAPACITIES)
def as_exported(
    request: pytest.FixtureRequest,
    exported: Path,
    model_dir: Path,
    components: dict[str, Component],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An export of the language model in a KV-cache layout, checked as every export is; its graph was traced before."""
    root = tmp_path_factory.mktemp(request.param)
    (root / NEUTRAL_DIR).mkdir()
    shutil.copy(exported / NEUTRAL_DIR / "llm.onnx", root / NEUTRAL_DIR)
    alone = ComponentSelection(("llm",), tuple(name for name in components if name != "llm"))
    job = Job.of(model_dir, root, exported, kv_cache=request.param, capacity=CAPACITIES[request.param], selection=alone)
    for stage in (lower, validate):
        stage(job, lambda _line: None)
    return root


def test_the_manifest_says_what_is_written_in_place(as_exported: Path) -> None:
    manifest = read_manifest(as_exported)
    kv_cache = manifest.how.kv_cache
    llm = manifest.components["llm"]
    names = [f"{part}_{layer}" for layer in range(2) for part in ("key", "value")]
    assert llm.aliases == {f"present_{name}": f"past_{name}" for name in names}
    assert [one.name for one in llm.outputs][-4:] == [f"present_{name}" for name in names]
    shapes = {one.name: one.shape for one in (*llm.inputs, *llm.outputs)}
    assert shapes["past_key_0"] == shapes["present_key_0"]
    assert shapes["past_key_0"][2] == {"trt_native": CAPACITY, "ort": "past"}[kv_cache]
    assert llm.onnx.opset == 24
    assert manifest.generation.status == "pass"


def test_it_writes_and_draws_as_the_model_does(
    as_exported: Path, unchanged_model: MMInterleaved, model_dir: Path
) -> None:
    first, second, third = map(open_image, sorted((model_dir / "samples").glob("*.png")))
    long = "a text that does not fit into the cache that a reading begins with " * 3
    documents: list[list[str | Image.Image]] = [["draw"], [first, "one", second, long], [third, "draw"], []]
    options = {"max_new_tokens": 8, "max_new_images": 2, "num_inference_steps": 2, "seed": 5, "guidance_scale": 2.0}
    session = Session.open(as_exported, "ort", model=unchanged_model)
    for _ in range(2):  # the second time in memory that holds what the first one left
        found = session.generate(documents, **options)
        both = zip(unchanged_model.generate(documents, **options), found, strict=True)
        assert [compare(expected, written) for expected, written in both] == [None] * 4
    beams = {"mode": "text", "num_beams": 2, "max_new_tokens": 4}
    assert session.generate(documents[:2], **beams) == unchanged_model.generate(documents[:2], **beams)


def test_the_command_line_chooses(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(export.pipeline, "export_graphs", lambda job, *_: jobs.append(job))
    command = [str(model_dir), "--out", str(tmp_path / "out")]
    for options in ([], ["--kv-cache", "trt_native", "--max-past", "96"], ["--kv-cache", "ort"]):
        assert export.trt.main([*command, *options]) == 0
    assert [(job.kv_cache, job.capacity) for job in jobs] == [("trt_split", None), ("trt_native", 96), ("ort", None)]
    assert len({job.key for job in jobs}) == 3
    assert len({job.graph_key for job in jobs}) == 1, "all come from the same neutral graphs"


def test_a_kv_cache_layout_without_engines_is_said_before_anything_is_traced(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export.pipeline, "open_package", lambda builder: None)
    command = [str(model_dir), "--out", str(tmp_path / "out"), "--stage", "build", "--builder", "rtx"]
    assert export.trt.main([*command, "--kv-cache", "ort"]) == 2
    assert "--kv-cache ort has no engines: TensorRT wants a cache of fixed size" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def save_llm(exported: Path, file: Path, kv_cache: KVCacheLayout, capacity: int | None, precision: Precision) -> None:
    neutral = onnx.load(exported / NEUTRAL_DIR / "llm.onnx")
    file.parent.mkdir()
    onnx.save(lower_precision(lower_attention(neutral, kv_cache, capacity), precision), file)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("kv_cache", CAPACITIES)
def test_half_precision_passes_the_tolerances(
    unchanged_model: MMInterleaved,
    components: dict[str, Component],
    cases: dict[str, list[Case]],
    exported: Path,
    tmp_path: Path,
    kv_cache: KVCacheLayout,
    precision: Precision,
) -> None:
    llm, capacity = components["llm"], CAPACITIES[kv_cache]
    file = tmp_path / "onnx/llm.onnx"
    save_llm(exported, file, kv_cache, capacity, precision)
    run = run_of(with_kv_cache_layout(llm, kv_cache, capacity), file, precision)
    results = check_half(llm, run, cases["llm"], precision)
    assert all(0 < error < 0.02 for result in results for error in result.relative_errors.values())
    check_seeing(llm, run, cases["llm"][0])
    assert check_greedy(llm, run, unchanged_model.language_model.embed, cases["llm"][0], 4) == 4


def test_documents_to_check_with_have_to_fit(
    components: dict[str, Component], cases: dict[str, list[Case]], exported: Path, tmp_path: Path
) -> None:
    file = tmp_path / "onnx/llm.onnx"
    save_llm(exported, file, "trt_native", 8, "float32")
    run = run_of(with_kv_cache_layout(components["llm"], "trt_native", 8), file, "float32")
    with pytest.raises(
        ParityError, match=r"needs \d+ rows of the cache, and it has 8\. Export with a larger --max-past"
    ):
        run(cases["llm"][0].inputs)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_tensorrt_is_given_what_its_parser_takes(exported: Path, tmp_path: Path, precision: Precision) -> None:
    file = tmp_path / "onnx/llm.onnx"
    save_llm(exported, file, "trt_native", CAPACITY, precision)
    given = onnx.load_from_string(graph_for_tensorrt(file))
    attributes = {one.name for node in given.graph.node if node.op_type == "Attention" for one in node.attribute}
    assert attributes == ({"scale", "TRT_decomposable"} if precision == "float32" else {"scale"})
    kept = {one.name for node in onnx.load(file).graph.node if node.op_type == "Attention" for one in node.attribute}
    assert kept == {"scale", "softmax_precision"}, "the file is everybody's"


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tensorrt_rtx_builds_it_with_its_plugins(
    exported: Path, components: dict[str, Component], tmp_path: Path, precision: Precision
) -> None:
    file = tmp_path / "onnx/llm.onnx"
    save_llm(exported, file, "trt_native", 64, precision)
    llm = with_precision(with_kv_cache_layout(components["llm"], "trt_native", 64), precision)
    entry = component_entry(llm, Graph.of(onnx.load(file)), file, a_component().validation, root=tmp_path)
    write_manifest(tmp_path, a_manifest({"llm": entry}))
    limits = Limits(max_batch=2, max_tokens=4, max_past=64, max_images=3)
    build_engines(tmp_path, BuildOptions("rtx", limits, architectures=("sm_80",)), lambda _line: None)
    (engine,) = read_manifest(tmp_path).components["llm"].engines.values()
    assert engine.status == "built"
    assert engine.num_plugins == {"MMFS": 2}
