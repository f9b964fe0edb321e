"""What exporting Stable Diffusion 2.1's U-Net with MMFS takes: `pytest bench/bench_export_unet.py -s`, or the program

    python -m bench.bench_export_unet

866 million parameters of the U-Net and its synchronizers, at 512 x 512 pixels. It is traced, lowered to float16, and
built by TensorRT-RTX where that is installed, each in a process of its own, whose peak is counted. The checkpoint is a
file with holes instead of numbers: they are never looked at, and the engine's zeros are not what is measured. With
--smoke it is the tiny model's U-Net.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import onnx

from bench.bench_export_memory import peak_bytes, write_checkpoint
from bench.workloads import Scale
from export.components.all import components_of
from export.components.component import Component
from export.components.profiles import Limits
from export.engine.build_process import BUILT_FILE, Request, main
from export.engine.profiles import profiles_of
from export.graph.external_data import write_weights
from export.graph.meta_model import open_meta_model
from export.graph.onnx_graph import to_onnx
from export.graph.precision import lower_precision, with_precision
from export.process.child_process import run_child
from models import MMInterleavedConfig
from plugins_trt.tensorrt_package import library_folders, why_not

NAME = "unet_mmfs"


def wide_config() -> MMInterleavedConfig:
    """The released vision encoder and image decoder around the tiny language model."""
    tiny, released = MMInterleavedConfig.tiny(), MMInterleavedConfig.released_13b()
    return dataclasses.replace(tiny, visual_tokenizer=released.visual_tokenizer, image_decoder=released.image_decoder)


def trace(folder: Path) -> dict[str, float]:
    """Write the graph, which points into the checkpoint, and read it back."""
    model, stored = open_meta_model(folder / "model")
    component = components_of(model)[NAME]
    start = time.perf_counter()
    graph = to_onnx(component, stored)  # ONNX's checker has seen it
    (folder / "neutral.onnx").write_bytes(graph.proto.SerializeToString())
    return {
        "parameters": sum(parameter.numel() for parameter in component.module.parameters()),
        "seconds": time.perf_counter() - start,
        "nodes": graph.num_nodes,
        "mmfs": sum(graph.num_mmfs_nodes.values()),
        "synchronizers": component.num_synchronizers,
        "neutral_bytes": (folder / "neutral.onnx").stat().st_size,
    }


def lower(folder: Path) -> dict[str, float]:
    """Write it in float16 with its weights, and let ONNX's checker look at the file."""
    start = time.perf_counter()
    proto = lower_precision(onnx.load(folder / "neutral.onnx", load_external_data=False), "float16")
    write_weights(proto, folder / "model", folder / f"{NAME}.data")
    (folder / f"{NAME}.onnx").write_bytes(proto.SerializeToString())
    onnx.checker.check_model(str(folder / f"{NAME}.onnx"))
    data = folder / f"{NAME}.data"  # of large weights; the tiny model has none
    return {"seconds": time.perf_counter() - start, "weights_bytes": data.stat().st_size if data.exists() else 0}


def build(folder: Path) -> dict[str, float]:
    """Its engine: plugins, one architecture."""
    model, _ = open_meta_model(folder / "model")
    component: Component = with_precision(components_of(model)[NAME], "float16")
    del model
    shapes = component.input_shapes()
    request = Request(
        builder="rtx",
        onnx=str(folder / f"{NAME}.onnx"),
        plan=str(folder / "plan"),
        log=str(folder / "log"),
        profiles=tuple(profile.shapes(shapes) for profile in profiles_of(NAME, shapes, Limits())),
        architectures=("sm_90",),
        plugins="python",
    )
    del component
    request.save(folder / "request.json")
    main([str(folder / "request.json")])
    built = json.loads((folder / BUILT_FILE).read_text())
    if "error" in built:
        raise RuntimeError(built["error"])
    return {
        "seconds": built["seconds"],
        "layers": built["num_layers"],
        "plugin_layers": built["num_plugin_layers"],
        "plan_bytes": (folder / "plan").stat().st_size,
    }


STAGES = {"trace": trace, "lower": lower, "build": build}


def measure(config: MMInterleavedConfig) -> dict[str, dict[str, float]]:
    """Figures of each stage, in a process of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(config, Path(scratch) / "model")
        for stage in STAGES if why_not("rtx") is None else ("trace", "lower"):
            lines: list[str] = []
            with library_folders("rtx") if stage == "build" else nullcontext(()) as libraries:
                run_child(
                    "bench.bench_export_unet",
                    [stage, scratch],
                    heartbeat=lambda seconds, phase: print(f"{seconds:.0f} s, {phase}", file=sys.stderr),
                    on_line=lines.append,
                    library_folders=libraries,
                )
            found[stage] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    return found


def test_the_whole_unet_is_traced_lowered_and_built(scale: Scale) -> None:
    is_whole = scale != "smoke"
    found = measure(wide_config() if is_whole else MMInterleavedConfig.tiny())
    print(json.dumps(found, indent=1))
    assert found["trace"]["mmfs"] == found["trace"]["synchronizers"] > 0
    if is_whole:
        assert found["trace"]["parameters"] > 866e6
        assert found["trace"]["neutral_bytes"] < 0.05 * found["lower"]["weights_bytes"]
        assert found["trace"]["raised_bytes"] < 0.5 * 4 * found["trace"]["parameters"], "half of the float32 weights"
    if "build" in found:
        assert found["build"]["plugin_layers"] == found["trace"]["synchronizers"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        before = peak_bytes()
        figures = STAGES[sys.argv[1]](Path(sys.argv[2]))
        print(json.dumps({**figures, "raised_bytes": peak_bytes() - before}))
    else:
        for name, of_stage in measure(wide_config()).items():
            print(name, *(f"{what} {number:,.0f}" for what, number in of_stage.items()), sep="\n    ")
