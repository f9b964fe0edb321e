"""Times of an exported model beside those of PyTorch: what `python -m export.bench` does once its options are read."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from export.process.progress import Log
from export.runtime import Session
from export.runtime.onnxruntime_runner import who_computes
from export.runtime.runners import exported_model
from export.runtime.tensorrt_runner import TensorRTError
from export.workload import Work
from models.atomic_files import write_atomically
from models.denoising_options import Denoising
from models.generation.state import GenerationState, GenerativeModel
from models.output_file import check_output_file
from models.program import explained
from plugins_trt.tensorrt_package import MissingPackage

PYTORCH = "PyTorch"
DRAWN = "images drawn"


@dataclass(frozen=True)
class Measured:
    """One kind of work by one implementation."""

    what: str
    implementation: str
    per_s: float
    """Tokens or images a second, by the median round."""

    relative_error: float
    """Norm of the difference from PyTorch's logits or pixels, over the norm of those. Pixels are those of one step from
    noise to image: many steps enlarge any difference where the model is undecided what to draw, and the prompt, whose
    words mean nothing together, leaves it undecided."""


def measure_export(options: argparse.Namespace) -> int:
    """Do what the command line of `export.bench` asks for.

    Returns:
        The exit status: 0, or 2 for what cannot be run.
    """
    try:
        if options.json is not None:
            check_output_file("--json", options.json)
        work = Work(options.prompt_tokens, options.new_tokens, options.num_inference_steps, rounds=options.rounds)
        model, in_parts = (exported_model(options.directory, options.model) for _ in range(2))
        session = Session.open(options.directory, options.backend, model=in_parts, device=options.device)
        device = session.assets.embedding.device
        measured = measure({PYTORCH: model.to(device), options.backend: session}, device, work, _say)
    except (OSError, ValueError, MissingPackage, TensorRTError) as error:
        print(explained(error), file=sys.stderr)
        return 2
    if (nodes := who_computes(session.runners.values())) is not None:
        print(f"{options.backend}: {nodes}")
    print(table(measured, device))
    if options.json is not None:
        write_atomically(options.json, json.dumps([asdict(one) for one in measured], indent=2) + "\n")
    return 0


@torch.no_grad()
def measure(models: dict[str, GenerativeModel], device: torch.device, work: Work, log: Log) -> list[Measured]:
    """Let each do the work; the others are compared with the first.

    Args:
        models: by name.
        device: where they are.
        work: what.
        log: gets a line before each job.

    Raises:
        ValueError: the prompt and the new tokens do not fit into the language model.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    jobs = {name: _jobs(model, work) for name, model in models.items()}
    names = list(next(iter(jobs.values())))
    found: list[Measured] = []
    for place, what in enumerate(names, start=1):
        log(f"[{place}/{len(names)}] {what} by {' and '.join(models)} ...")
        times_s: dict[str, list[float]] = {name: [] for name in models}
        results: dict[str, Tensor] = {}
        for number in range(work.rounds + 1):  # the first records, compiles and fills caches
            for name, model in models.items():  # by turns, so that what else the machine does slows all of them
                prepared = _prepare(model, what, work)
                wait()
                start = time.perf_counter()
                results[name] = jobs[name][what][1](prepared)
                wait()
                if number:
                    times_s[name].append(time.perf_counter() - start)
        exact = None
        for name, model in models.items():
            result = results[name]
            if what == DRAWN:
                result = _draw(_prepare(model, what, work), replace(_denoising(work), num_inference_steps=1))
            result = result.double().cpu()
            exact = result if exact is None else exact
            error = (result - exact).norm() / exact.norm().clamp(min=1e-300)
            amount = jobs[name][what][0]
            found.append(Measured(what, name, amount / statistics.median(times_s[name]), float(error)))
    return found


def _say(line: str) -> None:
    print(line, flush=True)


def table(measured: Sequence[Measured], device: torch.device) -> str:
    """In Markdown; "x" is how many times as fast as PyTorch."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    lines = [
        f"{where}, PyTorch {torch.__version__}",
        "",
        "| what | by | a second | x | error |",
        "|---|---|---:|---:|---:|",
    ]
    peers = {one.what: one.per_s for one in measured if one.implementation == PYTORCH}
    for one in measured:
        times = one.per_s / peers[one.what]
        lines.append(
            f"| {one.what} | {one.implementation} | {one.per_s:.4g} | {times:.2f} | {one.relative_error:.1e} |"
        )
    return "\n".join(lines)


def _jobs(model: GenerativeModel, work: Work) -> dict[str, tuple[int, Callable[[GenerationState], Tensor]]]:
    """By name: how many tokens or images it makes, and how, from a prepared state."""

    def prefill(state: GenerationState) -> Tensor:
        state.read([[_prompt(model, work)]])
        assert state.logits is not None
        return state.logits

    def decode(state: GenerationState) -> Tensor:
        for _ in range(work.num_new_tokens):
            assert state.logits is not None
            state.read([[[_prompt(model, work)[0]]]])
            state.logits.cpu()  # wait until the next token is known
        assert state.logits is not None
        return state.logits

    def draw(state: GenerationState) -> Tensor:
        return _draw(state, _denoising(work))

    return {
        "tokens read": (work.num_prompt_tokens, prefill),
        "tokens written": (work.num_new_tokens, decode),
        DRAWN: (1, draw),
    }


def _denoising(work: Work) -> Denoising:
    return Denoising(num_inference_steps=work.num_inference_steps, guidance_scale=work.guidance_scale)


def _draw(state: GenerationState, denoising: Denoising) -> Tensor:
    """Pixels of one image."""
    *_, last = state.draw([0], [0], denoising)
    return state.decode(last.latents)


def _prepare(model: GenerativeModel, what: str, work: Work) -> GenerationState:
    """A state that has read the document before the job."""
    state = model.begin_generation(1)
    if what != "tokens read":
        state.read([[_prompt(model, work)]])
    if what == DRAWN:
        state.read([[[model.config.begin_of_image_id]]])
    return state


def _prompt(model: GenerativeModel, work: Work) -> list[int]:
    """Any tokens that are text."""
    special = {model.config.pad_token_id, model.config.eos_token_id, model.config.begin_of_image_id}
    special |= {model.config.bos_token_id, model.config.image_token_id}
    vocabulary = model.config.language_model.transformer["vocab_size"]
    text = [token for token in range(vocabulary) if token not in special]
    return [model.config.bos_token_id, *(text[7 * place % len(text)] for place in range(work.num_prompt_tokens - 1))]
