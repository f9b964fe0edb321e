"""An export from its first stage to its last: what `python -m export.trt` does once its options are read."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from export.command_line import GRAPH_STAGES, STAGES, USUAL_BUILDER, USUAL_KIND
from export.components.all import components_of
from export.components.profiles import Limits
from export.engine.build import BuildOptions, build_engines
from export.engine.checks import EngineError
from export.engine.compatibility import check_whole, is_undamaged
from export.engine.memory_estimate import gpu_bytes, memory_of, report
from export.formats import Precision, Weights
from export.graph.meta_model import open_meta_model
from export.graph.onnx_graph import GraphError
from export.graph.precision import precision_of
from export.graph.quantization import matrices_of, weights_of
from export.graph.truncate import truncate_layers
from export.placement import replace_export, restore_export
from export.process.child_process import ChildError, run_child
from export.process.progress import Log, Progress
from export.stage_process import ERROR_FILE, raise_error
from export.store.job import NEUTRAL_DIR, Job
from export.store.manifest import MANIFEST_FILE, manifest_of, read_manifest
from export.store.selection import ComponentSelection
from export.triton import check_new, write_repository
from export.validate.parity import ParityError
from mmfs.kernels.nvrtc import NvrtcError
from models.config import CONFIG_FILE
from models.directory_lock import directory_lock
from models.program import explained
from models.write_errors import WriteError
from plugins_trt.kinds import USUAL_PLUGIN_KIND
from plugins_trt.plugin_kinds import check_plugin_kind
from plugins_trt.tensorrt_package import MissingPackage, open_package

BENCH_FILE = "bench.json"


def export_model(options: argparse.Namespace) -> int:
    """Do what the command line of `export.trt` asks for.

    Returns:
        The exit status: 0, 1 for an export that failed, 2 for wrong arguments.
    """

    def log(line: str) -> None:
        print(line, flush=True)

    try:
        limits = Limits(
            options.max_batch, options.max_tokens, options.max_past, options.max_images, options.dynamic_unet
        )
        selection = ComponentSelection(options.components, options.torch_fallback)
        if options.dry_run:
            return plan_memory(
                options.model,
                limits,
                options.precision,
                selection,
                options.llm_weights,
                few_layers=options.few_layers,
                gpu_gb=options.gpu_mem,
                log=log,
            )
        stage = options.stage or ("validate" if options.builder is None else "build")
        builder = options.builder or USUAL_BUILDER
        _check_belonging(options, stage, limits)
        if stage == "build":
            # Before minutes are spent on graphs.
            check_plugin_kind(options.plugin or USUAL_PLUGIN_KIND[builder], builder, options.plugin_library)
            open_package(builder)
        if options.out.is_symlink():
            options.out = options.out.resolve()  # the target of a link is replaced, and the link stays
        _check_arguments(options, stage)
        restore_export(options.out)
        if (earlier := manifest_of(options.out)) is not None:
            selection = selection.joined(earlier)
        work = options.out.with_name(f".{options.out.name}.unfinished")
        job = Job.of(
            options.model,
            work,
            options.out,
            images=options.images,
            precision=options.precision,
            few_layers=options.few_layers,
            kv_cache=options.kv_cache,
            capacity=limits.max_past if options.kv_cache == "trt_native" else None,
            selection=selection,
            llm_weights=options.llm_weights,
            sampling_locations=options.sampling_locations,
            log=log,
        )
        if is_up_to_date(options.out, job, log):
            log(f"{options.out} holds the graphs of this model")
        else:
            export_graphs(job, options.out, GRAPH_STAGES[: 1 + STAGES.index(stage)], log)
        if stage == "build":
            build = BuildOptions(
                builder,
                limits,
                options.components,
                options.torch_fallback,
                options.function_fallback,
                plugin=options.plugin,
                plugin_library=options.plugin_library,
            )
            build_engines(options.out, build, log)
        if stage == "bench":
            _bench(options.model, options.out, log)
        if options.triton is not None:
            served = write_repository(options.out, options.triton, options.triton_kind or USUAL_KIND)
            log(f"{options.triton} serves {', '.join(served)}")
    except (GraphError, ParityError) as error:
        print(f"The export failed, and nothing was written to {options.out}. {error}", file=sys.stderr)
        return 1
    except (EngineError, ChildError, WriteError) as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError, NvrtcError, MissingPackage) as error:
        print(explained(error), file=sys.stderr)
        return 2
    return 0


def export_graphs(job: Job, out: Path, stages: Sequence[str], log: Log) -> None:
    """Go through stages, each in a process of its own; after the last one, `out` appears or is replaced.

    Args:
        job: what to export.
        out: a directory that does not exist, is empty, or holds an earlier export.
        stages: some of `GRAPH_STAGES`, from the first.
        log: gets a line of progress now and then.

    Raises:
        ValueError: another process works on the same directory; the model or the samples are not usable.
        GraphError, ParityError: the export would differ from the model. Nothing is kept.
        ChildError: a process was ended. Finished work is kept, and the next call continues from there.
    """
    start = time.perf_counter()
    work = Path(job.work)
    work.mkdir(parents=True, exist_ok=True)
    with directory_lock(work):
        try:
            job_file = job.save()
            for stage in stages:
                if stage == "validate" and is_up_to_date(work, job, log):
                    continue  # interrupted just before the directory was moved to its place
                _run_stage(stage, job, job_file, log)
        except (GraphError, ParityError):
            shutil.rmtree(work)
            raise
        except (ValueError, OSError):
            if not any(work.rglob("*.onnx")):
                shutil.rmtree(work)
            raise
        except ChildError as error:
            raise ChildError(f"{error} What was done is kept in {work}; the same command goes on there.") from None
        if stages[-1] != GRAPH_STAGES[-1]:
            log(f"{work} holds what is done; --stage {GRAPH_STAGES[-1]} goes on")
            return
        replace_export(work, out)
    log(f"wrote {out} in {time.perf_counter() - start:.0f} s")


def _run_stage(stage: str, job: Job, job_file: Path, log: Log) -> None:
    work = Path(job.work)
    (work / ERROR_FILE).unlink(missing_ok=True)  # of an earlier command that was ended before it read the file
    progress = Progress.of(stage, [work / NEUTRAL_DIR, Path(job.earlier) / NEUTRAL_DIR])

    def on_line(line: str) -> None:
        progress.on_line(line)
        log(line)

    run_child(
        "export.stage_process",
        [stage, str(job_file)],
        heartbeat=lambda seconds, phase: log(f"      {seconds:.0f} s, {phase.strip()}{progress.left()}"),
        on_line=on_line,
    )
    raise_error(work)
    progress.save(work / NEUTRAL_DIR)


def _bench(model_dir: Path, out: Path, log: Log) -> None:
    """Time the graphs in onnxruntime beside PyTorch; the figures are printed and kept."""
    check_whole(out, read_manifest(out))
    progress = Progress("bench", {})

    def on_line(line: str) -> None:
        progress.on_line(line)
        log(line)

    run_child(
        "export.bench",
        [str(out), "--model", str(model_dir), "--json", str(out / BENCH_FILE)],
        heartbeat=lambda seconds, phase: log(f"      {seconds:.0f} s, {phase.strip()}{progress.left()}"),
        on_line=on_line,
    )


def is_up_to_date(out: Path, job: Job, log: Log) -> bool:
    """Whether `out` holds what the job would make, readable and undamaged.

    Raises:
        ValueError: the job names a component that the model does not have.
    """
    manifest = manifest_of(out)
    if manifest is None or manifest.key != job.key or not job.selection.is_held_by(manifest):
        return False
    return is_undamaged(out, manifest, log)


def plan_memory(
    model_dir: Path,
    limits: Limits,
    precision: Precision,
    selection: ComponentSelection,
    llm_weights: Weights,
    *,
    few_layers: int | None,
    gpu_gb: float | None,
    log: Log,
) -> int:
    """Print how much memory the chosen components take; 2 if that is more than `gpu_gb` (10**9 bytes each), else 0."""
    model, _ = open_meta_model(model_dir)
    if few_layers is not None:
        truncate_layers(model, few_layers)
    components = components_of(model)
    memories = {}
    for name in selection.among(components):
        memory, in_float32 = memory_of(components[name], limits), precision_of(name, precision) == "float32"
        memory = memory if in_float32 else memory.in_half()
        if weights_of(name, llm_weights) != "same":
            memory = memory.in_eight_bits(matrices_of(model), itemsize=4 if in_float32 else 2)
        memories[name] = memory
    for line in report(memories, limits):
        log(line)
    needed = gpu_bytes(memories) / 1e9
    if gpu_gb is None or needed <= gpu_gb:
        return 0
    print(
        f"The engines take {needed:.3f} GB, and the GPU has {gpu_gb:.3f}. Lower --max-batch, --max-past or "
        "--max-images, or leave components to another GPU with --components.",
        file=sys.stderr,
    )
    return 2


def _check_belonging(options: argparse.Namespace, stage: str, limits: Limits) -> None:
    """Refuse options that would be ignored."""
    if options.gpu_mem is not None:
        raise ValueError("--gpu-mem belongs to --dry-run; nothing else asks for the GPU's memory.")
    if options.triton is None and options.triton_kind is not None:
        raise ValueError("--triton-kind belongs to --triton DIR, the model repository that it describes. Name both.")
    if stage == "build":
        return
    named = [name for name in ("builder", "plugin", "plugin_library", "function_fallback") if getattr(options, name)]
    if options.kv_cache == "trt_native":
        limits = replace(limits, max_past=Limits.max_past)  # the graphs have it
    named += [field.name for field in fields(Limits) if getattr(limits, field.name) != field.default]
    if named:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        raise ValueError(f"{listed} would change nothing with --stage {stage}. Leave it out, or take --stage build.")


def _check_arguments(options: argparse.Namespace, stage: str) -> None:
    """Checks that need no file."""
    model_dir, out = options.model, options.out
    if out.name in ("", ".."):
        raise ValueError(
            f"--out is {out}. Expected a directory by its name: the export grows beside it, as .NAME.unfinished."
        )
    if not (model_dir / CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"{model_dir} holds no {CONFIG_FILE}. Expected a directory written by MMInterleaved.save_pretrained or "
            "python -m models.convert."
        )
    if missing := [image for image in options.images if not image.is_file()]:
        raise FileNotFoundError(f"There is no image {missing[0]}. --images takes files as PNG, JPEG or WebP.")
    if out.exists() and not (out.is_dir() and ((out / MANIFEST_FILE).is_file() or not any(out.iterdir()))):
        raise FileExistsError(f"{out} exists and is no earlier export. Name another directory, or remove it.")
    if options.kv_cache == "ort" and stage == "build":
        raise ValueError(
            "--kv-cache ort has no engines: TensorRT wants a cache of fixed size. Take trt_split or trt_native."
        )
    if options.triton is None:
        return
    if stage in GRAPH_STAGES[:-1]:
        raise ValueError(f"--triton serves a finished export, and --stage {stage} ends before. Leave one out.")
    check_new(options.triton)
