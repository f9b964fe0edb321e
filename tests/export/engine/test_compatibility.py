import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.command_line import command_line
from export.components.profiles import Limits
from export.engine import compatibility
from export.engine.compatibility import (
    IncompatibleExport,
    Machine,
    check_engine,
    check_file,
    check_graph,
    check_names,
    check_whole,
    engine_of,
    is_undamaged,
    requirements,
)
from export.process.progress import ReadProgress
from export.store.entries import file_entry
from export.store.manifest import EngineEntry, GraphEntry, How, LeastDriver, NoEngine, Requirements
from export.store.rebuild_command import how_to_rebuild
from export_manifests import a_component, a_manifest, an_engine, no_engine

THIS = Machine(platform="Linux x86_64", builder_version="1.7", capability=(9, 0), driver=580, kernels_sha256="ab" * 32)

HOW = How("float16", "int8", "trt_native", 64, None, ("/my images/a.png", "/b.png"))
LIMITS = Limits(max_batch=2, max_tokens=16, max_past=64, max_images=3, dynamic_unet=True)
MANIFEST = a_manifest({}, how=HOW, model_dir="/my models/one")
LIMITS_OPTIONS = "--max-batch 2 --max-tokens 16 --max-past 64 --max-images 3 --dynamic-unet"
COMMAND = "python -m export.trt '/my models/one' --out"


@pytest.fixture
def entry(tmp_path: Path) -> EngineEntry:
    plan = tmp_path / "llm.plan"
    plan.write_bytes(b"a plan")
    return an_engine(
        plan=file_entry(plan, tmp_path),
        limits=LIMITS,
        requires=Requirements(
            platform="Linux x86_64",
            capability=None,
            architectures=("sm_80", "sm_90", "compute_80"),
            cuda="13.1",
            least_driver=LeastDriver(machine_code=580, ptx=590),
            kernels_sha256="ab" * 32,
        ),
    )


def test_what_fits_is_not_refused(tmp_path: Path, entry: EngineEntry) -> None:
    check_engine(tmp_path, MANIFEST, "llm", entry, "rtx", THIS)
    check_engine(tmp_path, MANIFEST, "llm", entry, "rtx", replace(THIS, capability=(12, 1), driver=590))
    check_engine(tmp_path, MANIFEST, "llm", entry, "rtx", replace(THIS, capability=(12, 1), driver=None))


@pytest.mark.parametrize(
    ("machine", "needs", "message"),
    [
        ({"platform": "Linux aarch64"}, {}, "was built on Linux x86_64, and this is Linux aarch64"),
        ({"kernels_sha256": "cd" * 32}, {}, r"other kernel sources \(SHA-256 abababababab\)"),
        ({"capability": None}, {}, "needs an NVIDIA GPU"),
        ({"driver": 570}, {}, r"driver of at least 580 for machine code of CUDA 13\.1, and this is 570"),
        (
            {"driver": 580, "capability": (12, 1)},
            {},
            r"driver of at least 590 for PTX of CUDA 13\.1, and this is 580, which reads that of CUDA 13\.0: install a "
            r"newer driver, or nvidia-cuda-nvrtc==13\.0\.\* before it is built again",
        ),
        ({"driver": 580}, {"architectures": ("compute_80",)}, "driver of at least 590 for PTX"),
        ({"capability": (8, 9)}, {"capability": (9, 0)}, "capability 9.0, and this one has 8.9"),
        ({"capability": (7, 5)}, {}, "holds kernels for sm_80, sm_90, compute_80, and this GPU has .* 7.5"),
        ({"capability": (9, 0)}, {"architectures": ("sm_86", "sm_80")}, "holds kernels for sm_86, sm_80"),
    ],
    ids=[
        *("platform", "kernels", "no-gpu", "driver", "driver-ptx", "driver-ahead"),
        *("other-gpu", "older-gpu", "other-major"),
    ],
)
def test_another_machine_is_refused_with_the_command(
    tmp_path: Path, entry: EngineEntry, machine: dict[str, Any], needs: dict[str, Any], message: str
) -> None:
    entry = replace(entry, requires=replace(entry.requires, **needs))
    command = f"{COMMAND} {tmp_path} --stage build --builder rtx --components llm"
    with pytest.raises(IncompatibleExport, match=rf"The engine of llm .*{message}.*{command}"):
        check_engine(tmp_path, MANIFEST, "llm", entry, "rtx", replace(THIS, **machine))


@pytest.mark.parametrize(
    ("built", "options"),
    [
        ({}, "--plugin python"),
        ({"plugin_kind": "library", "plugin_library": "/a b.so"}, "--plugin library --plugin-library '/a b.so'"),
        ({"plugin_kind": None, "mmfs_nodes": "bodies of standard operators"}, "--function-fallback llm"),
        ({"plugin_kind": None}, ""),
    ],
    ids=["python", "library", "bodies", "no-nodes"],
)
def test_the_command_builds_an_engine_of_the_same_kind(
    tmp_path: Path, entry: EngineEntry, built: dict[str, Any], options: str
) -> None:
    with pytest.raises(IncompatibleExport) as refused:
        check_engine(tmp_path, MANIFEST, "llm", replace(entry, **built), "rtx", replace(THIS, capability=None))
    words = ["--components llm", options, LIMITS_OPTIONS]
    words += ["--precision float16 --llm-weights int8 --kv-cache trt_native --images '/my images/a.png' /b.png"]
    assert str(refused.value).endswith(" ".join(filter(None, words)))
    parsed = command_line("").parse_args(shlex.split(str(refused.value).partition("export.trt ")[2]))
    assert (parsed.model, parsed.out) == (Path("/my models/one"), tmp_path)
    assert (parsed.builder, parsed.kv_cache, parsed.max_past) == ("rtx", "trt_native", 64)
    assert parsed.images == [Path("/my images/a.png"), Path("/b.png")]
    assert parsed.plugin_library == (Path("/a b.so") if built.get("plugin_kind") == "library" else None)


def test_the_command_makes_the_same_parts(tmp_path: Path) -> None:
    part = replace(
        MANIFEST,
        components={"llm": a_component(), "eye": a_component()},
        left_to_pytorch=("vae",),
        not_exported=("unet",),
    )
    assert " --stage validate --components llm,eye --torch-fallback vae --precision" in how_to_rebuild(
        tmp_path, part, stage="validate"
    )
    with pytest.raises(IncompatibleExport) as refused:
        check_whole(tmp_path, part)
    whole, _, left = str(refused.value).partition("; or leave them to PyTorch: ")
    assert f"Export them, too: {COMMAND} {tmp_path} --torch-fallback vae --precision" in whole
    assert left.startswith(f"{COMMAND} {tmp_path} --components llm,eye --torch-fallback vae,unet --precision")


def test_an_export_is_undamaged_if_all_that_it_lists_is_as_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compatibility, "ReadProgress", partial(ReadProgress, interval_s=0.0))
    lines: list[str] = []
    files = {}
    for name in ("llm.onnx", "llm.data", "schedule.json"):
        (tmp_path / name).write_text(name)
        if name == "llm.onnx":
            onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "llm", [], [])), tmp_path / name)
        files[name] = file_entry(tmp_path / name, tmp_path)
    graph = GraphEntry(files["llm.onnx"], (files["llm.data"],), 18, 1)
    manifest = a_manifest({"llm": a_component(onnx=graph)}, assets=(files["schedule.json"],))
    assert is_undamaged(tmp_path, manifest, lines.append)
    assert [line.partition(": ")[0].partition(", ")[2] for line in lines] == [f"checking {tmp_path}"] * 3
    for name in files:
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before.swapcase())
        assert not is_undamaged(tmp_path, manifest, print)
        (tmp_path / name).write_bytes(before)


def graph_with(tmp_path: Path, how: str, location: str) -> GraphEntry:
    """A graph that has numbers in a file, or an operator that reads one."""
    numbers = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [0.0])
    numbers.ClearField("float_data")
    numbers.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        entry = numbers.external_data.add()
        entry.key, entry.value = key, value
    constant = onnx.helper.make_node("Constant", [], ["c"], value=numbers)
    inner = onnx.helper.make_graph([constant], "inner", [], [])
    nodes = {
        "weight": [],
        "constant": [constant],
        "branch": [onnx.helper.make_node("If", ["p"], ["c"], then_branch=inner, else_branch=inner)],
        "operator": [onnx.helper.make_node("EPContext", [], ["c"], domain="com.microsoft", ep_cache_context=location)],
        "function": [],
    }
    graph = onnx.helper.make_graph(nodes[how], "llm", [], [], [numbers] if how == "weight" else [])
    proto = onnx.helper.make_model(graph)
    if how == "function":
        proto.functions.append(onnx.helper.make_function("mmfs", "f", [], ["c"], [constant], []))
    (tmp_path / "onnx").mkdir(exist_ok=True)
    (tmp_path / "onnx" / "llm.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "onnx" / "llm.data").write_bytes(bytes(4))
    entries = [file_entry(tmp_path / "onnx" / name, tmp_path) for name in ("llm.onnx", "llm.data")]
    return GraphEntry(entries[0], (entries[1],), 18, 1)


@pytest.mark.parametrize("how", ["weight", "constant", "branch", "function"])
@pytest.mark.parametrize("place", ["other.data", "../onnx/llm.data", "/etc/passwd", "", "sub/llm.data"])
def test_a_graph_that_reads_what_is_not_listed_is_refused(tmp_path: Path, how: str, place: str) -> None:
    check_graph(tmp_path, graph_with(tmp_path, how, "llm.data"), "Cure.")
    with pytest.raises(
        IncompatibleExport, match=r"llm\.onnx has numbers in '.*', which manifest.json does not list\. Cure"
    ):
        check_graph(tmp_path, graph_with(tmp_path, how, place), "Cure.")


def test_a_graph_that_runs_a_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleExport, match=r"has an operator EPContext, which manifest\.json does not list"):
        check_graph(tmp_path, graph_with(tmp_path, "operator", "engine.bin"), "Cure.")
    (tmp_path / "onnx" / "llm.onnx").write_bytes(b"no graph")
    entry = file_entry(tmp_path / "onnx" / "llm.onnx", tmp_path)
    with pytest.raises(IncompatibleExport, match=r"llm\.onnx is no ONNX file \(.*\)\. Cure"):
        check_graph(tmp_path, GraphEntry(entry, (), 18, 1), "Cure.")


def test_swapped_components_are_refused() -> None:
    check_names(a_manifest({"file": a_component(engines={"rtx-1.7": an_engine()})}))
    with pytest.raises(IncompatibleExport, match="'llm' is in 'file', a file of another name"):
        check_names(a_manifest({"llm": a_component()}))


def missing(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def changed(file: Path) -> None:
    file.write_bytes(b"b" + file.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [(missing, "is missing"), (cut, "has 5 bytes.* says 6: it was cut"), (changed, "does not have .* is damaged")],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, entry: EngineEntry, damage: Callable[[Path], None], message: str
) -> None:
    damage(tmp_path / "llm.plan")
    with pytest.raises(IncompatibleExport, match=rf"llm\.plan {message}.* The way out\."):
        check_file(tmp_path, entry.plan, "The way out.")
    with pytest.raises(IncompatibleExport, match=message):
        check_engine(tmp_path, MANIFEST, "llm", entry, "rtx", THIS)


def test_the_engine_of_the_installed_tensorrt_is_taken(tmp_path: Path, entry: EngineEntry) -> None:
    left, failed = no_engine("not built", "left to PyTorch"), no_engine("failed", "No memory.")
    engines = {"rtx-1.6": entry, "rtx-1.7": entry, "rtx-1.8": left, "rtx-1.9": failed, "tensorrt-1.5": entry}
    manifest = replace(MANIFEST, components={"llm": a_component(engines=engines)})

    def of(version: str) -> Any:
        return engine_of(tmp_path, manifest, "llm", "rtx", replace(THIS, builder_version=version))

    assert of("1.7") is entry
    assert of("1.8") is None
    with pytest.raises(IncompatibleExport, match="no engine of llm: No memory"):
        of("1.9")
    with pytest.raises(IncompatibleExport, match=r"built by tensorrt_rtx 1.6, 1.7, and 1.5 is installed"):
        of("1.5")
    with pytest.raises(IncompatibleExport, match=r"no engine of llm for tensorrt_rtx 1\.7\. Make it again"):
        engine_of(tmp_path, replace(MANIFEST, components={"llm": a_component()}), "llm", "rtx", THIS)


def test_one_command_builds_all_that_lack_an_engine(tmp_path: Path, entry: EngineEntry) -> None:
    bodies = replace(entry, plugin_kind=None, mmfs_nodes="bodies of standard operators")
    larger = replace(entry, limits=Limits(max_batch=4))

    def command(machine: Machine, **engines: dict[str, EngineEntry | NoEngine]) -> str:
        components = {name: a_component(engines=found) for name, found in engines.items()}
        manifest = replace(MANIFEST, components=components)
        with pytest.raises(IncompatibleExport) as refused:
            check_engine(
                tmp_path, manifest, "eye", engine_of(tmp_path, manifest, "eye", "rtx", machine), "rtx", machine
            )
        return str(refused.value).partition(f"{tmp_path} ")[2].partition(" --precision")[0]

    building = "--stage build --builder rtx"
    limits = f"--plugin python {LIMITS_OPTIONS}"
    assert command(THIS, eye={}, llm={}) == building
    assert command(THIS, eye={}, llm={}, vae={"rtx-1.7": entry}) == f"{building} --components eye,llm"
    before = {"eye": {"rtx-1.6": bodies}, "llm": {"rtx-1.6": entry}}
    fallback = limits.replace(" --max-batch", " --function-fallback eye --max-batch")
    assert command(THIS, **before) == f"{building} {fallback}"
    assert command(THIS, **before, unet={"rtx-1.6": larger}) == f"{building} --components eye,llm {fallback}"
    other_gpu = replace(THIS, capability=(7, 5))
    now = {"eye": {"rtx-1.7": entry}, "llm": {"rtx-1.7": entry}, "vae": {"rtx-1.7": no_engine("not built")}}
    assert command(other_gpu, **now) == f"{building} --components eye,llm {limits}"


def test_requirements_are_those_of_what_is_inside() -> None:
    with_plugins, without = requirements("rtx", "python", ["sm_90"], (13, 1)), requirements("rtx", None, [], None)
    assert with_plugins.least_driver == LeastDriver(580, 590)
    assert (with_plugins.cuda, with_plugins.architectures) == ("13.1", ("sm_90",))
    assert len(with_plugins.kernels_sha256) == 64
    assert without.least_driver is None
    assert without.kernels_sha256 is None
    assert without.platform == with_plugins.platform
    ahead, library = (
        requirements("tensorrt", "aot", ["compute_80"], (12, 9)),
        requirements("rtx", "library", ["sm_80"], None),
    )
    assert (ahead.least_driver, library.least_driver) == (LeastDriver(525, 575), None)
    assert ahead.kernels_sha256 is library.kernels_sha256 is None, "nothing of ours launches them"
