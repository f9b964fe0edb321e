"""The libraries of the compiled CPU kernel and transformers' function by turns: what an instruction set brings.

OMP_NUM_THREADS=1 python -m bench.instruction_sets

Forward. One thread: CPU time; more: wall time. "x" is transformers' least time over an implementation's and, in
brackets, the median of this ratio in each round. "error" is relative, from float64. With half types transformers'
function makes half locations, which are off by pixels: its error says how far, and its time is what a model would
spend, not what the same result costs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench import peers
from bench.bench_op import TOLERANCE, call_of, checked_queries, exact_results, results
from bench.measure import worst_error
from bench.model_sides import seconds
from bench.workloads import WORKLOADS, Scale
from mmfs import compiled
from mmfs.arguments import MMFSAttentionArguments
from mmfs.compiled import InstructionSet
from mmfs.functional import checked_mmfs_attention, sizes_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PEER = "transformers"
CALLS = [name for name, case in WORKLOADS.items() if case.op == "mmfs_attention"]


def main(given: Sequence[str] | None = None) -> None:
    """Print the table.

    Raises:
        SystemExit: this processor or this installation has none of the libraries that are asked for.
        AssertionError: a library's result is wrong.
    """
    parser = argparse.ArgumentParser(prog="bench.instruction_sets", description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=["unet-64-images-1"], choices=CALLS)
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--sets", nargs="*", default=list(compiled.INSTRUCTION_SETS), choices=compiled.INSTRUCTION_SETS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args(given)
    for name in options.sets:
        if (reason := compiled.why_no_library() or compiled.why_not_instruction_set(name)) is not None:
            parser.error(f"{name}: {reason}. Name others with --sets.")
    torch.set_num_threads(options.threads)
    print("| workload | type | implementation | ms | x | error |\n|---|---|---|---:|---:|---:|")
    for workload in options.workloads:
        for dtype in options.dtypes:
            for row in rows(workload, DTYPES[dtype], options):
                print(f"| {workload} | {dtype} | {row} |", flush=True)


def rows(workload: str, dtype: torch.dtype, options: argparse.Namespace) -> Iterator[str]:
    """Implementation, least time, how many times faster than the peer, error: the peer's row first."""
    scale: Scale = "smoke" if options.smoke else "cpu"
    case = WORKLOADS[workload].at(scale)
    arguments = case.arguments(dtype, "cpu")
    sample = checked_queries(case, "cpu")
    exact = exact_results(workload, scale, dtype, "cpu")
    ops: dict[str, Callable[..., Tensor]] = {PEER: peers.peer_op(PEER, case.op)}
    ops |= {name: by_library(name) for name in options.sets}
    errors, calls = {}, {}
    for name, op in ops.items():
        found = results(op, case, arguments, sample, backward=False)
        errors[name] = worst_error(found, exact[: len(found)])
        calls[name] = call_of(op, case, arguments, False)
        assert name == PEER or errors[name] < TOLERANCE[dtype], f"{name} is off by {errors[name]:.1e} on {workload}"
    timer = time.process_time if options.threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in ops}
    for _ in range(options.rounds):
        for name, call in calls.items():
            repeats = 1 if name == PEER else 3
            times[name].append(min(seconds(call, "cpu", timer) for _ in range(repeats)))
    least_s = min(times[PEER])
    for name, own in times.items():
        median = statistics.median(peer / each for peer, each in zip(times[PEER], own, strict=True))
        yield f"{name} | {1e3 * min(own):.3g} | {least_s / min(own):.1f} ({median:.1f}) | {errors[name]:.1e}"


def by_library(name: InstructionSet) -> Callable[..., Tensor]:
    """`mmfs.mmfs_attention` without gradients, by the library that a processor without the faster ones would take."""
    kernel = compiled.library(name).mmfs_cpu_mmfs_attention

    def op(*, spatial_shapes: Sequence[tuple[int, int]], **named: Any) -> Tensor:
        sizes, image_shapes = sizes_of(spatial_shapes)
        fields = checked_mmfs_attention(
            MMFSAttentionArguments(spatial_shapes=sizes, image_shapes=image_shapes, **named)
        )
        call = compiled.mmfs_attention_call(fields)
        out = fields.value.new_empty(*fields.attention_logits.shape[:2], fields.value.shape[-2:].numel())
        call.out = out.data_ptr()
        compiled.check_mmfs_attention(kernel(call), fields)
        return out

    return op


if __name__ == "__main__":
    main()
