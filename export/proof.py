"""Stage "validate": every file against PyTorch, on real inputs; then assets and manifest.

Float32 files have to compute the same. Those of half precision are judged by `export/gates.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch

from export.assets import Assets, write_assets
from export.components import Component, components_of
from export.end_to_end import GenerationResult, check_generation, check_pictures
from export.gates import (
    LEAST_COSINE,
    MOST_NORM_CHANGE,
    TIMES_EAGER,
    Run,
    check_greedy,
    check_half,
    check_seeing,
    half_inputs,
)
from export.manifest import ASSETS_DIR, ONNX_DIR, component_entry, write_onnx_manifest
from export.onnx_graph import Graph
from export.parity import TOLERANCE, CaseResult, check, open_session
from export.precision import Precision, precision_of, with_precision
from export.real_inputs import Case, real_cases
from export.rounding import rounded_float32
from export.runtime import Session
from export.runtime.opened import ort_parts_of
from export.runtime.part import Part
from export.samples import Samples, load_samples
from export.stages import Job, Say, open_model
from models import MMInterleaved

ROUNDED_DIR = "rounded"


def validate(job: Job, say: Say) -> None:
    """Stage "validate": compare everything with PyTorch, and write assets and manifest.

    Raises:
        ParityError: something differs.
    """
    work = Path(job.work)
    model = open_model(job)
    components = components_of(model)
    samples = load_samples(Path(job.model_dir), [Path(picture) for picture in job.pictures])
    say(f"checking with {samples.source}")
    cases = real_cases(model, components, samples.documents)
    entries = {}
    for number, (name, component) in enumerate(components.items(), start=1):
        precision = precision_of(name, job.precision)
        file = work / ONNX_DIR / f"{name}.onnx"
        say(f"[{number}/{len(components)}] {name} ...")
        proof = _prove(model, component, file, cases[name], precision)
        entries[name] = component_entry(
            with_precision(component, precision),
            Graph.of(onnx.load(file, load_external_data=False)),
            file,
            proof,
            root=work,
        )
        say(f"      {len(cases[name])} cases, largest relative error {proof['max_relative_error']:.1e}")
    shutil.rmtree(work / ASSETS_DIR, ignore_errors=True)
    assets = write_assets(model, work / ASSETS_DIR)
    say("writing and drawing with the files alone ...")
    generation = _check_generation(job, model, components, samples)
    texts = f"{len(generation.texts)} texts equal; " if generation.texts else ""
    say(f"      {texts}{generation.num_pictures} pictures, the worst with a PSNR of {generation.worst_psnr_db:.0f} dB")
    write_onnx_manifest(
        work,
        key=job.key,
        how={"precision": job.precision, "few_layers": job.few_layers},
        model_dir=Path(job.model_dir),
        components=entries,
        assets=assets,
        samples=samples.source,
        generation=generation,
    )


def _prove(
    model: MMInterleaved, component: Component, file: Path, cases: Sequence[Case], precision: Precision
) -> dict[str, Any]:
    """The manifest's entry about what was compared."""
    if precision == "float32":
        results = check(component, file, cases)
        return _proof("onnxruntime CPU against PyTorch, float32, real inputs", TOLERANCE, results)
    run = runner(with_precision(component, precision), runnable(file, precision))
    results = check_half(component, run, cases, precision)
    how = "onnxruntime CPU" if precision == "float16" else "float32 rounded to bfloat16 after every operator"
    gates = {"times_eager": TIMES_EAGER, "cosine": LEAST_COSINE, "norm": MOST_NORM_CHANGE}
    proof = _proof(f"{how}, against PyTorch in float32 and in {precision}, real inputs", gates, results)
    looking = [case for case in cases if component.num_synchronizers and _num_images(case) > 2]
    if looking:
        check_seeing(component, run, looking[0])
    if component.name == "llm":
        most = model.config.language_model.transformer.get("max_position_embeddings", 2**31)
        room = most - cases[0].inputs["inputs_embeds"].shape[1]
        proof["num_greedy_tokens"] = check_greedy(component, run, model.language_model.embed, cases[0], room)
    return proof


def _proof(how: str, tolerance: float | dict[str, float], results: Sequence[CaseResult]) -> dict[str, Any]:
    return {
        "status": "pass",
        "runtime": how,
        "tolerance": tolerance,
        "max_relative_error": max(result.worst for result in results),
        "cases": [asdict(result) for result in results],
    }


def runnable(file: Path, precision: Precision) -> Path:
    """The file itself, or what stands for it where onnxruntime has no kernels."""
    if precision != "bfloat16":
        return file
    rounded = file.parents[1] / ROUNDED_DIR / file.name
    rounded.parent.mkdir(exist_ok=True)
    onnx.save(rounded_float32(onnx.load(file)), rounded)
    return rounded


def runner(component: Component, file: Path) -> Run:
    session = open_session(file)

    def run(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = session.run(list(component.outputs), half_inputs(component, inputs))
        return {name: torch.from_numpy(array).float() for name, array in zip(component.outputs, found, strict=True)}

    return run


def _num_images(case: Case) -> int:
    return min((len(tensor) for name, tensor in case.inputs.items() if "mmfs_value_" in name), default=0)


def _check_generation(
    job: Job, model: MMInterleaved, components: dict[str, Component], samples: Samples
) -> GenerationResult:
    """The files at their job. In half precision another token may be chance, so words are judged by their margins, in
    `check_greedy`, and here only the pictures."""
    work = Path(job.work)
    assets = Assets.load(work / ASSETS_DIR)
    if job.precision == "float32":
        return check_generation(model, Session(ort_parts_of(components, work / ONNX_DIR), assets), samples.documents)
    parts: dict[str, Part] = {}
    for name, component in components.items():
        precision = precision_of(name, job.precision)
        in_float32 = precision == "bfloat16"  # its stand-in has float32 ports
        folder = work / (ROUNDED_DIR if in_float32 else ONNX_DIR)
        parts |= ort_parts_of({name: component if in_float32 else with_precision(component, precision)}, folder)
    return check_pictures(model, Session(parts, assets), samples.documents)
