"""Stage "validate": every file against PyTorch, on real inputs; then assets and manifest.

Float32 files have to compute the same. Those of half precision are judged by `export/validate/half_precision.py`, and a
language model with weights of eight bits by `export/validate/eight_bit.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import onnx
import torch

import mmfs
from export.components.all import check_cases, components_of
from export.components.check_inputs import Case, pack
from export.components.component import Component
from export.formats import Precision, Weights
from export.graph.kv_cache import aliases_of, with_kv_cache_layout
from export.graph.onnx_graph import Graph
from export.graph.precision import precision_of, with_precision
from export.graph.quantization import weights_of
from export.process.progress import Log
from export.runtime import Session
from export.runtime.assets import Assets, write_assets
from export.runtime.onnxruntime_runner import OnnxRuntimeRunner, why_no_custom_operators
from export.runtime.runner import ComponentRunner, TorchRunner
from export.runtime.runners import onnxruntime_runners_of
from export.stages import open_model
from export.store.entries import component_entry, file_entry, quantized_entry
from export.store.job import PACKAGES, Job
from export.store.manifest import (
    ASSETS_DIR,
    ONNX_DIR,
    CaseResult,
    CustomOperatorsEntry,
    GenerationResult,
    How,
    Manifest,
    Outcome,
    Tool,
    ValidationEntry,
    write_manifest,
)
from export.store.samples import Samples, load_samples
from export.store.selection import Absent, absent
from export.validate import eight_bit
from export.validate.bfloat16_emulation import rounded_float32
from export.validate.cached_llm import as_trt_split
from export.validate.end_to_end import check_generation, check_images
from export.validate.half_precision import (
    NUM_TOKENS,
    check_greedy,
    check_half,
    check_seeing,
    half_inputs,
)
from export.validate.parity import ParityError, Run, check, check_run, open_session
from models import MMInterleaved
from models.config import CONFIG_FILE
from models.tensor_files import WEIGHTS_FILE
from models.write_errors import writing

ROUNDED_DIR = "rounded"


def validate(job: Job, log: Log) -> None:
    """Stage "validate": compare everything with PyTorch, and write assets and manifest.

    Raises:
        ParityError: something differs.
    """
    work = Path(job.work)
    model = open_model(job)
    components = components_of(model, sampling_locations=job.sampling_locations)
    samples = load_samples(Path(job.model_dir), [Path(image) for image in job.images])
    log(f"checking with {samples.source}")
    cases = check_cases(model, components, samples.documents)
    entries = {}
    chosen = job.selection.among(components)
    num_steps = len(chosen) + 1  # the last one checks all of them together
    for number, name in enumerate(chosen, start=1):
        component, precision = components[name], precision_of(name, job.precision)
        weights = weights_of(name, job.llm_weights)
        file = work / ONNX_DIR / f"{name}.onnx"
        log(f"[{number}/{num_steps}] {name} ...")
        as_exported = with_kv_cache_layout(component, job.kv_cache, job.capacity)
        graph = Graph.of(onnx.load(file, load_external_data=False))
        if weights == "same":
            validation = _validate_one(model, component, as_exported, file, cases[name], precision)
        else:
            with _naming_other_weights(job.llm_weights):
                validation = _validate_quantized(
                    model, component, as_exported, file, cases[name], precision, samples, log
                )
        by_kernel = None
        if graph.num_mmfs_nodes:
            by_kernel = _validate_custom_operators(component, as_exported, file, cases[name], precision, weights)
            validation = replace(validation, custom_operators=by_kernel)
        quantized = None if weights == "same" else quantized_entry(graph.proto)
        in_precision = with_precision(as_exported, precision)
        entries[name] = component_entry(in_precision, graph, file, validation, root=work, quantized=quantized)
        by_operators = "" if by_kernel is None else _words_of(by_kernel)
        log(f"      {len(cases[name])} cases, largest relative error {validation.max_relative_error:.1e}{by_operators}")
    shutil.rmtree(work / ASSETS_DIR, ignore_errors=True)
    assets = write_assets(model, work / ASSETS_DIR, components)
    others = absent(chosen, job.selection, components)
    with _naming_other_weights(job.llm_weights):
        generation = _generation(job, model, components, samples, others, f"[{num_steps}/{num_steps}]", log)
    model_dir = Path(job.model_dir)
    manifest = Manifest(
        key=job.key,
        tool=Tool("export.trt", mmfs.__version__),
        how=How(
            precision=job.precision,
            llm_weights=job.llm_weights,
            kv_cache=job.kv_cache,
            max_past=job.capacity,
            few_layers=job.few_layers,
            images=tuple(str(Path(image).absolute()) for image in job.images),
            sampling_locations=job.sampling_locations,
        ),
        versions={package: version(package) for package in PACKAGES},
        model_dir=str(model_dir.absolute()),
        model={name: file_entry(model_dir / name, model_dir) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        samples=samples.source,
        components=entries,
        left_to_pytorch=others.left_to_pytorch,
        not_exported=others.not_exported,
        assets=tuple(file_entry(asset, work) for asset in assets),
        generation=generation,
    )
    write_manifest(work, manifest)


@contextmanager
def _naming_other_weights(weights: Weights) -> Iterator[None]:
    """Adds the alternatives to an error that eight-bit weights may have caused."""
    try:
        yield
    except ParityError as error:
        if weights == "same":
            raise
        others = "same" if weights == "int8" else "int8 or same"
        raise ParityError(f"{error} With --llm-weights {others} it may pass.") from error


def _validate_one(
    model: MMInterleaved,
    component: Component,
    as_exported: Component,
    file: Path,
    cases: Sequence[Case],
    precision: Precision,
) -> ValidationEntry:
    """The manifest's entry about what was compared."""
    if precision == "float32":
        how = "onnxruntime CPU against PyTorch, float32, real inputs"
        if as_exported is component:
            return _validation_entry(how, component.tolerances.relative_error, check(component, file, cases))
        return _validation_entry(
            how, component.tolerances.relative_error, check_run(component, run_of(as_exported, file, precision), cases)
        )
    run = run_of(as_exported, file, precision)
    results = check_half(component, run, cases, precision)
    how = "onnxruntime CPU" if precision == "float16" else "float32 rounded to bfloat16 after every operator"
    own = component.tolerances
    tolerances = {"times_eager": own.times_eager, "cosine": own.cosine, "norm": own.norm}
    validation = _validation_entry(
        f"{how}, against PyTorch in float32 and in {precision}, real inputs", tolerances, results
    )
    _check_seeing(component, run, cases)
    if component.writes_text:
        room = _room(model, as_exported, cases)
        num_tokens = check_greedy(component, run, model.language_model.embed, cases[0], room)
        validation = replace(validation, num_greedy_tokens=num_tokens)
    return validation


def _validate_quantized(
    model: MMInterleaved,
    llm: Component,
    as_exported: Component,
    file: Path,
    cases: Sequence[Case],
    precision: Precision,
    samples: Samples,
    log: Log,
) -> ValidationEntry:
    """The manifest's entry about a language model with weights of eight bits."""
    assert model.processor is not None, "the command asks for one first"
    run = run_of(as_exported, file, precision)
    input_ids = pack(model, samples.documents).input_ids
    num_tokens = min(NUM_TOKENS, _room(model, as_exported, cases))
    tolerances = {"cosine": eight_bit.LEAST_COSINE, "norm": eight_bit.MOST_NORM_CHANGE}
    tolerances["perplexity"] = eight_bit.MOST_PERPLEXITY_CHANGE
    results = eight_bit.check_quantized(llm, run, cases)
    validation = _validation_entry("onnxruntime CPU against PyTorch in float32, real inputs", tolerances, results)
    _check_seeing(llm, run, cases)
    likelihood = eight_bit.check_perplexity(llm, run, cases[0], input_ids, model.config.image_token_id)
    greedy = eight_bit.compare_greedy(
        llm, run, model.language_model.embed, model.processor.decode_text, cases[0], num_tokens
    )
    num_same = sum(one.num_equal == one.num_tokens for one in greedy)
    log(
        f"      perplexity {likelihood.perplexity:.3f}, PyTorch's {likelihood.pytorch_perplexity:.3f}; {num_same} of "
        f"{len(greedy)} documents written on with the same {num_tokens} tokens"
    )
    return replace(validation, likelihood=likelihood, greedy=tuple(greedy))


def _validate_custom_operators(
    component: Component,
    as_exported: Component,
    file: Path,
    cases: Sequence[Case],
    precision: Precision,
    weights: Weights,
) -> CustomOperatorsEntry:
    """The same cases and tolerances with the compiled kernel in place of the nodes' bodies."""
    if (reason := why_no_custom_operators(torch.device("cpu"))) is not None:
        return CustomOperatorsEntry("not run", reason)
    run = run_of(as_exported, file, precision, custom_operators=True)
    try:
        if weights != "same":
            results = eight_bit.check_quantized(component, run, cases)
        elif precision == "float32":
            results = check_run(component, run, cases)
        else:
            results = check_half(component, run, cases, precision)
    except ParityError as error:
        raise ParityError(f"With mmfs's custom operators for onnxruntime: {error}") from error
    return CustomOperatorsEntry("pass", max_relative_error=max(result.worst for result in results))


def _words_of(entry: CustomOperatorsEntry) -> str:
    if entry.max_relative_error is None:
        return f"; not compared with custom operators: {entry.reason}"
    return f"; with custom operators {entry.max_relative_error:.1e}"


def _room(model: MMInterleaved, llm: Component, cases: Sequence[Case]) -> int:
    """How many tokens may follow the documents of the first case."""
    most = model.config.language_model.max_tokens or 2**31
    rows = llm.inputs["past_key_0"].shape[2]
    most = min(most, rows) if isinstance(rows, int) else most
    return most - cases[0].inputs["inputs_embeds"].shape[1]


def _check_seeing(component: Component, run: Run, cases: Sequence[Case]) -> None:
    """Where there are images to see, and not to see."""
    looking = [case for case in cases if component.num_synchronizers and _num_images(component, case) > 2]
    if looking:
        check_seeing(component, run, looking[0])


def _validation_entry(how: str, tolerance: float | dict[str, float], results: Sequence[CaseResult]) -> ValidationEntry:
    return ValidationEntry(how, tolerance, max(result.worst for result in results), tuple(results))


def runnable(file: Path, precision: Precision) -> Path:
    """The file itself, or a stand-in where onnxruntime has no kernels for it."""
    if precision != "bfloat16":
        return file
    rounded = file.parents[1] / ROUNDED_DIR / file.name
    rounded.parent.mkdir(exist_ok=True)
    with writing(rounded):
        onnx.save(rounded_float32(onnx.load(file)), rounded)
    return rounded


def run_of(component: Component, file: Path, precision: Precision, *, custom_operators: bool = False) -> Run:
    """A function that runs a graph of any KV-cache layout, with the ports of `trt_split`.

    Args:
        component: in the file's KV-cache layout and in float32.
        file: the graph.
        precision: of the graph.
        custom_operators: whether the compiled kernel computes mmfs nodes; else their bodies.
    """
    file, in_precision = runnable(file, precision), with_precision(component, precision)
    if aliases_of(component.outputs):
        ports = component if precision == "bfloat16" else in_precision  # its stand-in has float32 ports
        runner = OnnxRuntimeRunner(
            component.name,
            ports.inputs,
            ports.outputs,
            file,
            torch.device("cpu"),
            custom_operators=custom_operators,
        )
        return as_trt_split(runner, getattr(torch, precision))
    session, component = open_session(file, custom_operators=custom_operators), in_precision

    def run(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = session.run(list(component.outputs), half_inputs(component, inputs))
        return {name: torch.from_numpy(array).float() for name, array in zip(component.outputs, found, strict=True)}

    return run


def _num_images(component: Component, case: Case) -> int:
    banks = [tensor for name, tensor in case.inputs.items() if component.inputs[name].role == "bank"]
    return min(map(len, banks), default=0)


def _generation(
    job: Job,
    model: MMInterleaved,
    components: dict[str, Component],
    samples: Samples,
    others: Absent,
    head: str,
    log: Log,
) -> GenerationResult | Outcome:
    """What the files, and the components left to PyTorch, generate together; or why they cannot."""
    if missing := others.not_exported:
        reason = f"{', '.join(missing)} were not exported, and not left to PyTorch with --torch-fallback"
        log(f"{head} no writing and drawing: {reason}")
        return Outcome("not run", reason)
    left = others.left_to_pytorch
    log(f"{head} writing and drawing with the files {'and PyTorch for ' + ', '.join(left) if left else 'alone'} ...")
    of_pytorch: dict[str, ComponentRunner] = {name: TorchRunner(components[name], model.device) for name in left}
    of_files = {name: component for name, component in components.items() if name not in left}
    found = _check_generation(job, model, of_files, of_pytorch, samples)
    texts = f"{len(found.texts)} texts equal; " if found.texts else ""
    log(f"      {texts}{found.num_images} images, the worst with a PSNR of {found.worst_psnr_db:.0f} dB")
    return found


def _check_generation(
    job: Job,
    model: MMInterleaved,
    components: dict[str, Component],
    of_pytorch: dict[str, ComponentRunner],
    samples: Samples,
) -> GenerationResult:
    """The files together, writing and drawing.

    In half precision, and with weights of eight bits, another token may be chance, so text is judged in
    `check_greedy` and `check_perplexity`, and here only the images; with weights of eight bits, by what the model sees
    in them.
    """
    work = Path(job.work)
    assets = Assets.load(work / ASSETS_DIR)
    components = {name: with_kv_cache_layout(one, job.kv_cache, job.capacity) for name, one in components.items()}
    if job.precision == "float32" and job.llm_weights == "same":
        runners = {**onnxruntime_runners_of(components, work / ONNX_DIR), **of_pytorch}
        return check_generation(model, Session(runners, assets), samples.documents)
    runners = dict(of_pytorch)
    for name, component in components.items():
        precision = precision_of(name, job.precision)
        in_float32 = precision == "bfloat16"  # its stand-in has float32 ports
        folder = work / (ROUNDED_DIR if in_float32 else ONNX_DIR)
        runners |= onnxruntime_runners_of(
            {name: component if in_float32 else with_precision(component, precision)}, folder
        )
    eyes = None if job.llm_weights == "same" else partial(eight_bit.compare_seen, model)
    return check_images(model, Session(runners, assets), samples.documents, eyes)
