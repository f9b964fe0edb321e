"""Stage "build": what it keeps, refuses and writes, without TensorRT; and two small graphs with TensorRT-RTX."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.components.profiles import Limits, Profile
from export.engine import build as build_module
from export.engine.build import BuildOptions, build_engines
from export.engine.build_process import BUILT_FILE, INSPECTED_FILE, Request
from export.engine.checks import EngineError, check_plugins, num_plugin_layers
from export.process.child_process import ChildError
from export.process.fingerprint import file_digest
from export.store.entries import file_entry
from export.store.manifest import (
    MANIFEST_FILE,
    SCHEMA,
    BuilderEntry,
    GraphEntry,
    Inspection,
    NoEngine,
    PortEntry,
    read_manifest,
    write_manifest,
)
from export_manifests import a_component, a_manifest
from models.directory_lock import directory_lock
from plugins_trt.onnx_function import attach_functions
from plugins_trt.tensorrt_package import MissingPackage, why_not

LIMITS = Limits(max_batch=2, max_tokens=4, max_past=8, max_images=3)
PORTS = {
    "vae_decoder": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
    "image_tokenizer": [
        {"name": "value", "dtype": "float32", "shape": ["images", 6, 2, 8]},
        {"name": "locations", "dtype": "float32", "shape": ["images", 5, 2, 1, 3, 2]},
        {"name": "weights", "dtype": "float32", "shape": ["images", 5, 2, 1, 3]},
    ],
}


def graph_of(name: str, value_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Two graphs: y = x + 1, and one deformable attention, whose coordinates and weights are float32."""
    types = {"value": value_type}
    inputs = [
        helper.make_tensor_value_info(p["name"], types.get(p["name"], TensorProto.FLOAT), p["shape"])
        for p in PORTS[name]
    ]
    if name == "vae_decoder":
        one = onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")
        nodes, shape = [helper.make_node("Add", ["x", "one"], ["y"])], ["batch", 4]
    else:
        one = None
        attributes = {"spatial_shapes": [2, 3], "plugin_namespace": "mmfs", "plugin_version": "1"}
        inputs_of_node = [p["name"] for p in PORTS[name]]
        nodes = [helper.make_node("MSDeformAttn", inputs_of_node, ["y"], domain="mmfs", **attributes)]
        shape = ["images", 5, 16]
    output = helper.make_tensor_value_info("y", value_type, shape)
    graph = helper.make_graph(nodes, name, inputs, [output], [one] if one is not None else [])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mmfs", 1)]
    return attach_functions(helper.make_model(graph, opset_imports=imports, ir_version=10))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What stage "onnx" leaves, as far as stage "build" looks at it."""
    (tmp_path / "out/onnx").mkdir(parents=True)
    components = {}
    for name in PORTS:
        file = tmp_path / f"out/onnx/{name}.onnx"
        onnx.save(graph_of(name), file)
        components[name] = a_component(
            onnx=GraphEntry(file_entry(file, tmp_path / "out"), (), 18, 1),
            inputs=tuple(PortEntry(p["name"], p["dtype"], tuple(p["shape"]), "plain") for p in PORTS[name]),
            num_mmfs_nodes={"MSDeformAttn": 1} if name == "image_tokenizer" else {},
        )
    write_manifest(tmp_path / "out", a_manifest(components, left_to_pytorch=("left",)))
    return tmp_path / "out"


class Builder:
    """In the place of the process; remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.inspected: dict[str, Any] = {"error": "cudaError 35"}
        self.plugins_of: dict[str, int] | None = {"MSDeformAttn": 1}
        self.num_layers = 1
        self.dies_on = ""

    def run_child(self, module: str, arguments: list[str], **_options: Any) -> None:
        assert module == "export.engine.build_process"
        (file,) = map(Path, arguments)
        request = Request.load(file)
        self.requests.append(request)
        name = Path(request.onnx).stem
        Path(request.log).write_text(
            f"log of {name}\nTotal Activation Memory: 7 bytes\nTotal Activation Memory: 5 bytes"
        )
        if name == self.dies_on:
            raise ChildError("The process was ended by signal 11. It wrote last: parsing")
        Path(request.plan).write_bytes(f"plan of {name}".encode())
        plugins = self.plugins_of if name == "image_tokenizer" and request.plugins else {}
        num_layers = self.num_layers if plugins is None else sum(plugins.values())
        built = {"seconds": 1.5, "num_layers": 3, "num_plugin_layers": num_layers}
        built |= {"num_plugins_in_plan": plugins, "machine_code_sha256": ["abc"] * num_layers}
        file.with_name(BUILT_FILE).write_text(json.dumps(built))
        file.with_name(INSPECTED_FILE).write_text(json.dumps(self.inspected))

    def names(self) -> list[str]:
        names = [Path(request.onnx).stem for request in self.requests]
        self.requests.clear()
        return names


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    stand_in = Builder()
    monkeypatch.setattr(build_module, "run_child", stand_in.run_child)
    monkeypatch.setattr(build_module, "open_package", lambda name: SimpleNamespace(__version__="1.2"))
    monkeypatch.setattr(build_module, "nvrtc", lambda: SimpleNamespace(version=(13, 0)))
    return stand_in


def build(root: Path, **options: Any) -> list[str]:
    lines: list[str] = []
    build_engines(root, BuildOptions("rtx", **{"limits": LIMITS, **options}), lines.append)
    return lines


def entries(root: Path) -> dict[str, Any]:
    return {name: component.engines.get("rtx-1.2") for name, component in read_manifest(root).components.items()}


def test_every_engine_is_entered_with_what_is_known_about_it(root: Path, builder: Builder) -> None:
    lines = build(root)
    assert [line.partition(" ...")[0] for line in lines if line.startswith("[")] == [
        "[1/2] vae_decoder",
        "[2/2] image_tokenizer",
    ]
    vae_decoder, image_tokenizer = entries(root).values()
    plan = root / image_tokenizer.plan.path
    assert plan == root / "engines/rtx-1.2/image_tokenizer.plan"
    assert plan.read_bytes() == b"plan of image_tokenizer"
    assert image_tokenizer.plan.sha256 == file_digest(plan)
    assert image_tokenizer.memory_bytes == {"activation": 7}
    assert image_tokenizer.builder == BuilderEntry("tensorrt_rtx", "1.2")
    assert (image_tokenizer.num_plugins, vae_decoder.num_plugins) == ({"MSDeformAttn": 1}, {})
    assert image_tokenizer.profiles == (Profile("all", {"images": (1, 1, 3)}),)
    assert builder.requests[1].profiles[0]["value"] == [[1, 6, 2, 8], [1, 6, 2, 8], [3, 6, 2, 8]]
    for entry in (vae_decoder, image_tokenizer):
        assert entry.status == "built"
        assert entry.inspector.status == entry.executed.status == entry.verified.status == "not run"
        assert entry.inspector.reason.endswith("cudaError 35")
    assert any(line.startswith("engines built and never executed: ") for line in read_manifest(root).not_done)
    assert {path.name for path in (root / "engines/rtx-1.2").iterdir()} == {
        f"{name}.{end}" for name in PORTS for end in ("plan", "build.log")
    }


def test_what_is_there_is_kept_and_what_has_changed_is_built_again(root: Path, builder: Builder) -> None:
    build(root)
    assert builder.names() == ["vae_decoder", "image_tokenizer"]
    assert any("nothing has changed" in line for line in build(root))
    assert builder.names() == []
    before = entries(root)

    (root / "engines/rtx-1.2/vae_decoder.plan").write_bytes(b"plan of pla")  # the disk was full
    assert "[1/2] vae_decoder: vae_decoder.plan is missing or damaged" in build(root)
    assert builder.names() == ["vae_decoder"]
    (root / "engines/rtx-1.2/image_tokenizer.plan").unlink()
    build(root)
    assert builder.names() == ["image_tokenizer"]
    assert entries(root) == before

    build(root, architectures=("sm_90",))
    assert builder.names() == ["image_tokenizer"], "vae_decoder has no plugin"
    build(root, limits=Limits(max_batch=3, max_images=3), architectures=("sm_90",))
    assert builder.names() == ["vae_decoder"], "image_tokenizer has no axis of that name"


def test_a_plan_is_built_again_for_another_gpu_and_in_another_way(
    root: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root)
    assert builder.names() == ["vae_decoder", "image_tokenizer"]
    monkeypatch.setattr(build_module, "capability_for", lambda _builder: [9, 0])
    build(root)
    assert builder.names() == ["vae_decoder", "image_tokenizer"]
    monkeypatch.setattr(build_module, "BUILDER_MODULES", ("export.engine.build",))
    build(root)
    assert builder.names() == ["vae_decoder", "image_tokenizer"]
    monkeypatch.setattr(build_module, "KERNELS", ("mmfs/kernels/*.cuh",))
    build(root)
    assert builder.names() == ["image_tokenizer"], "vae_decoder has no plugin"


def test_a_graph_that_is_not_the_checked_one_is_refused(root: Path, builder: Builder) -> None:
    with (root / "onnx/vae_decoder.onnx").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(EngineError, match=r"vae_decoder\.onnx is not the file that was checked\. Export again"):
        build(root)
    assert builder.names() == []


def test_a_process_that_dies_costs_one_engine(root: Path, builder: Builder) -> None:
    build(root)
    builder.dies_on = "vae_decoder"
    with pytest.raises(EngineError, match=r"No engine of vae_decoder; .*manifest\.json says why"):
        build(root, limits=Limits(max_batch=1, max_images=2))
    vae_decoder, image_tokenizer = entries(root).values()
    assert vae_decoder.status == "failed"
    assert vae_decoder.reason.startswith("The process was ended by signal 11")
    assert image_tokenizer.status == "built"
    names = {path.name for path in (root / "engines/rtx-1.2").iterdir()}
    assert names == {"vae_decoder.build.log", "image_tokenizer.build.log", "image_tokenizer.plan"}, (
        "the plan of before is gone"
    )
    assert read_manifest(root).not_done == (
        "left to PyTorch: left",
        "no engine: vae_decoder",
        "engines built and never executed: image_tokenizer",
    )


@pytest.mark.parametrize("found", [{}, {"MSDeformAttn": 2}, {"MMFS": 1}])
def test_another_number_of_plugins_than_nodes_is_an_error(root: Path, builder: Builder, found: dict[str, int]) -> None:
    builder.plugins_of = found
    with pytest.raises(EngineError, match="No engine of image_tokenizer"):
        build(root)
    assert "expected were {'MSDeformAttn': 1}" in entries(root)["image_tokenizer"].reason
    assert not (root / "engines/rtx-1.2/image_tokenizer.plan").exists()
    with pytest.raises(EngineError, match="The network has 2 plugin layers"):
        check_plugins({"num_plugin_layers": 2, "num_plugins_in_plan": {"MMFS": 1}}, {"MMFS": 1})


def test_where_the_plan_can_be_loaded_the_inspector_has_to_agree(root: Path, builder: Builder) -> None:
    layers = [{"Name": "a", "LayerType": "PluginV3"}, {"Name": "b", "LayerType": "kgen"}]
    assert num_plugin_layers({"Layers": layers}) == 1
    builder.inspected = {"layers": {"Layers": layers}}
    build(root, components=("image_tokenizer",))
    assert entries(root)["image_tokenizer"].inspector == Inspection("pass", num_plugin_layers=1)
    file = root / "engines/rtx-1.2/image_tokenizer.layers.json"
    assert json.loads(file.read_text()) == {"Layers": layers}
    builder.inspected = {"error": "cudaError 35"}
    build(root, components=("image_tokenizer",), architectures=("sm_90",))
    assert not file.exists(), "of the plan before this one"
    builder.inspected = {"layers": {"Layers": layers}}
    with pytest.raises(EngineError, match="No engine of vae_decoder"):
        build(root)
    assert "finds 1 plugin layers in the engine; expected were 0" in entries(root)["vae_decoder"].reason


def test_fallbacks_are_taken_when_asked_for_and_said(root: Path, builder: Builder) -> None:
    build(root)
    builder.requests.clear()
    build(root, torch_fallback=("vae_decoder",), function_fallback=("image_tokenizer",))
    vae_decoder, image_tokenizer = entries(root).values()
    assert vae_decoder == NoEngine("not built", "left to PyTorch with --torch-fallback")
    assert builder.requests[0].plugins is None
    assert image_tokenizer.num_plugins == {}
    assert "asked for with --function-fallback" in image_tokenizer.mmfs_nodes
    names = {path.name for path in (root / "engines/rtx-1.2").iterdir()}
    assert names == {"image_tokenizer.plan", "image_tokenizer.build.log"}, "nothing of what is left to PyTorch"
    build(root)
    assert [request.plugins for request in builder.requests[1:]] == ["python", "python"], "not asked for any more"


def test_tensorrt_gets_ahead_of_time_plugins_unless_another_plugin_kind_is_named(root: Path, builder: Builder) -> None:
    builder.plugins_of = None  # TensorRT does not tell how many of these are in a plan
    lines: list[str] = []
    build_engines(root, BuildOptions("tensorrt", LIMITS), lines.append)
    entry = read_manifest(root).components["image_tokenizer"].engines["tensorrt-1.2"]
    assert [request.plugins for request in builder.requests] == ["aot", "aot"]
    assert (entry.plugin_kind, entry.num_plugins) == ("aot", {"MSDeformAttn": 1})
    assert entry.machine_code.architectures == entry.requires.architectures == ("compute_80",)
    assert read_manifest(root).components["vae_decoder"].engines["tensorrt-1.2"].plugin_kind is None
    assert builder.names() == ["vae_decoder", "image_tokenizer"]

    builder.plugins_of = {"MSDeformAttn": 1}
    build_engines(root, BuildOptions("tensorrt", LIMITS, plugin="python"), lines.append)
    assert builder.names() == ["image_tokenizer"], "vae_decoder has no plugin"
    assert read_manifest(root).components["image_tokenizer"].engines["tensorrt-1.2"].plugin_kind == "python"

    builder.plugins_of, builder.num_layers = None, 0
    with pytest.raises(EngineError, match="No engine of image_tokenizer"):
        build_engines(root, BuildOptions("tensorrt", LIMITS), lines.append)
    reason = read_manifest(root).components["image_tokenizer"].engines["tensorrt-1.2"].reason
    assert reason == "The network has 0 plugin layers; expected were {'MSDeformAttn': 1}."


def test_a_compiled_plugin_is_named_to_the_process_and_counts_for_the_key(
    root: Path, builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "nvrtc", None)  # nothing is compiled here
    builder.plugins_of = None
    library = tmp_path / "libmmfs_plugin.so"
    library.write_bytes(b"\0mmfs_ms_deform_attn_forward_float16_8_8_1@sm_80\0mmfs_add_splits_float16_8_8_1@sm_90\0")
    build(root, plugin="library", plugin_library=library)
    assert [request.plugin_library for request in builder.requests] == [str(library)] * 2
    assert entries(root)["image_tokenizer"].machine_code.architectures == ("sm_80", "sm_90")
    assert entries(root)["image_tokenizer"].requires.least_driver is None, "only who compiled it knows"
    assert entries(root)["image_tokenizer"].plugin_library == str(library)
    assert entries(root)["vae_decoder"].plugin_library is None
    assert builder.names() == ["vae_decoder", "image_tokenizer"]
    library.write_bytes(library.read_bytes() + b"another build")
    build(root, plugin="library", plugin_library=library)
    assert builder.names() == ["image_tokenizer"], "vae_decoder has no plugin"
    library.write_bytes(b"\x7fELF of something else")
    with pytest.raises(ValueError, match=r"libmmfs_plugin\.so holds no kernels of mmfs\. Expected what CMake builds"):
        build(root, plugin="library", plugin_library=library)


def test_an_unknown_component_and_a_second_process_are_refused(root: Path, builder: Builder) -> None:
    with pytest.raises(ValueError, match=r"no component lmm\. The export has vae_decoder, image_tokenizer"):
        build(root, components=("vae_decoder",), torch_fallback=("left", "lmm"))
    with directory_lock(root), pytest.raises(ValueError, match="Another process is writing into"):
        build(root)
    assert builder.names() == []
    build(root)


def test_what_a_killed_process_left_is_removed(root: Path, builder: Builder) -> None:
    leftover = root / "engines/rtx-1.2/.build-abc"
    leftover.mkdir(parents=True)
    (leftover / "plan").write_bytes(b"half")
    build(root)
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 2, "compon', "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"schema": 1}', rf"has schema 1; this program reads {SCHEMA}\. Export again"),
    ],
    ids=["truncated", "binary", "list", "older"],
)
def test_a_manifest_that_cannot_be_read_is_refused(root: Path, builder: Builder, content: bytes, message: str) -> None:
    (root / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build(root)
    (root / MANIFEST_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        build(root)


def test_a_missing_builder_is_a_sentence(root: Path) -> None:
    if (reason := why_not("tensorrt")) is None:
        pytest.skip("tensorrt is installed here")
    with pytest.raises(MissingPackage) as error:
        build_engines(root, BuildOptions("tensorrt"), print)
    assert str(error.value) == reason
    assert "mmfs[trt]" in reason


def replace_graph(root: Path, name: str, content: bytes) -> None:
    manifest = read_manifest(root)
    file = root / f"onnx/{name}.onnx"
    file.write_bytes(content)
    component = manifest.components[name]
    manifest.components[name] = replace(component, onnx=replace(component.onnx, file=file_entry(file, root)))
    write_manifest(root, manifest)


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(("name", "vector"), [("float16", 8), ("bfloat16", 8)])
def test_tensorrt_rtx_builds_half_types(root: Path, name: str, vector: int) -> None:
    replace_graph(
        root,
        "image_tokenizer",
        graph_of("image_tokenizer", TensorProto.DataType.Value(name.upper())).SerializeToString(),
    )
    build(root, components=("image_tokenizer",), architectures=("sm_90",))
    ((_, built),) = read_manifest(root).components["image_tokenizer"].engines.items()
    assert built.num_plugins == {"MSDeformAttn": 1}
    plan = (root / built.plan.path).read_bytes()
    assert f"mmfs_ms_deform_attn_forward_{name}_{vector}_8_1@sm_90".encode() in plan


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
def test_tensorrt_rtx_builds_plugins_bodies_and_says_what_it_refuses(root: Path) -> None:
    replace_graph(root, "vae_decoder", (root / "onnx/vae_decoder.onnx").read_bytes().replace(b"Add", b"Adx"))
    with pytest.raises(EngineError, match="No engine of vae_decoder"):
        build(root, architectures=("sm_90",))
    ((folder, refused),) = read_manifest(root).components["vae_decoder"].engines.items()
    assert folder.startswith("rtx-1.")
    assert "The parser refused the graph" in refused.reason
    built = read_manifest(root).components["image_tokenizer"].engines[folder]
    assert (built.status, built.num_plugins) == ("built", {"MSDeformAttn": 1})
    plan = (root / built.plan.path).read_bytes()
    assert b"mmfs_ms_deform_attn_forward_float32_4_8_1@sm_90" in plan
    assert built.executed.status == "not run"

    build(root, components=("image_tokenizer",), function_fallback=("image_tokenizer",), architectures=("sm_90",))
    built = read_manifest(root).components["image_tokenizer"].engines[folder]
    assert (built.status, built.num_plugins) == ("built", {})
    assert b"mmfs_ms_deform_attn_forward" not in (root / built.plan.path).read_bytes()
