"""What torch.compile and attention by document change of a training step: errors first, then times and memory.

python -m bench.training_compile

One thread; CPU seconds of this process, the least of some repetitions, eager and compiled turn by turn.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import peak_memory_bytes, relative_error, worst_error
from bench.model_sides import least_cpu_seconds
from models import Batch, MMInterleaved
from models.compiled_components import compile_components
from models.component_names import CompiledComponent
from models.document_attention import attend
from models.documents import Documents
from trainer.config import TrainConfig
from trainer.data.stream import Stream
from trainer.recipes import RECIPES
from trainer.step.accumulate import accumulate
from trainer.step.compilation import Compilation

HEADS, CHANNELS = 8, 64
"""Of the attention that is measured, and of each head."""

COMPILED: tuple[CompiledComponent, ...] = ("vision_encoder", "language_model")
"""Not the U-Net, whose gradients a compiler for CPUs gets wrong (`trainer.step.compilation.refuse_miscompiled`)."""

TOLERANCE = 1e-5
"""Relative, float32: by so much at most the compiled loss differs, and the norm of all gradients' difference."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="bench.training_compile", description=__doc__)
    parser.add_argument("--recipes", nargs="*", default=["tiny", "toy_scratch"], help="of the emoji world")
    parser.add_argument("--wide", type=int, default=512, help="width of one more language model; 0: none")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--tokens", type=int, nargs="*", default=[2048, 8192], help="of a row for attention")
    parser.add_argument("--document", type=int, default=1000, help="tokens of a document of these rows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = {name: RECIPES[name]() for name in options.recipes}
    if options.wide:
        runs[f"toy_scratch, {options.wide} wide"] = widened(RECIPES["toy_scratch"](), options.wide)
    head = "| model | parameters | eager s | compiled s | eager / compiled | loss error | gradient error"
    print(f"{head} | compiled first |")
    print("|---|---|---|---|---|---|---|---|")
    for name, run in runs.items():
        print(f"| {name} | {compared(run, options.repetitions, options.backend)} |", flush=True)
    print()
    print("| tokens of a row | mask MB | by document MB | mask / by document | seconds, mask / by document | error |")
    print("|---|---|---|---|---|---|")
    for tokens in options.tokens:
        print(f"| {tokens} | {attention(tokens, options.document, options.repetitions)} |", flush=True)


def widened(run: TrainConfig, width: int) -> TrainConfig:
    """The same with a wider language model of heads of 64 channels."""
    language_model = run.model.language_model
    transformer = {
        **language_model.transformer,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_attention_heads": width // CHANNELS,
        "num_key_value_heads": width // CHANNELS,
        "head_dim": CHANNELS,
    }
    return replace(run, model=replace(run.model, language_model=replace(language_model, transformer=transformer)))


def compared(run: TrainConfig, num_repetitions: int, backend: str) -> str:
    """The cells of a run's row. Raises AssertionError if a compiled step is another one."""
    torch.manual_seed(0)
    eager = MMInterleaved(run.model).train()
    compiled = copy.deepcopy(eager)
    compile_components(compiled, COMPILED, backend=backend)
    stream = Stream(run.data, run.model, seed=0)
    batches = (stream.part(number, range(2)) for number in itertools.count(run.num_steps))
    batch = next(batch for batch in batches if len(batch.drawn))  # so that the U-Net computes, too
    torch._dynamo.reset()
    compilation = Compilation()
    with compilation.watched():
        loss, gradients = step(eager, batch)
        for _ in range(2):
            again, found = step(compiled, batch)
        loss_error, gradient_error = abs(again - loss) / abs(loss), relative_error(found, gradients)
        assert max(loss_error, gradient_error) < TOLERANCE, (loss_error, gradient_error)
        made = compilation.report()
        times = least_cpu_seconds(num_repetitions, lambda: step(eager, batch), lambda: step(compiled, batch))
    numbers = [f"{sum(p.numel() for p in eager.parameters()):,}", *(f"{time:.3f}" for time in times)]
    numbers += [f"{times[0] / times[1]:.2f}", f"{loss_error:.1e}", f"{gradient_error:.1e}"]
    return " | ".join([*numbers, (made or "nothing").split(",")[0]])


def step(model: MMInterleaved, batch: Batch) -> tuple[float, Tensor]:
    """Forward and backward: the loss, and all gradients one after the other. Raises AssertionError if one is missing
    that the other model has, since their number differs then."""
    model.zero_grad()
    losses = accumulate(model, batch, num_targets=int((batch.targets >= 0).sum()), num_drawn=len(batch.drawn))
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return float(losses.text.sum() + losses.image.sum()), torch.cat(gradients)


def attention(tokens: int, document: int, num_repetitions: int) -> str:
    """The cells of a row: forward and backward under a mask of all pairs, and by document."""
    lengths = [document] * (tokens // document) + [tokens % document] * (tokens % document > 0)
    inputs = [torch.randn(1, HEADS, tokens, CHANNELS, requires_grad=True) for _ in range(3)]
    query, key, value = inputs

    def run(attended: Callable[[], Tensor]) -> list[Tensor]:
        seen = attended()
        return [seen.detach(), *torch.autograd.grad(seen.square().sum(), inputs)]

    def dense() -> Tensor:
        ids = torch.arange(tokens) // document
        mask = (ids.unsqueeze(1) == ids).tril()
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)

    def by_document() -> Tensor:
        packed = Documents.of(lengths)
        return attend(None, query, key, value, None, documents=packed)[0]

    peaks = [peak_memory_bytes(partial(run, attended), "cpu") for attended in (dense, by_document)]
    error = worst_error(run(by_document), run(dense))
    assert error < TOLERANCE, error
    times = least_cpu_seconds(num_repetitions, lambda: run(dense), lambda: run(by_document))
    shown = [f"{peak / 1e6:.0f}" if peak is not None else "unknown" for peak in peaks]
    ratio = f"{peaks[0] / peaks[1]:.2f}" if peaks[0] and peaks[1] else "unknown"
    return " | ".join([*shown, ratio, f"{times[0] / times[1]:.1f}", f"{error:.1e}"])


if __name__ == "__main__":
    main()
