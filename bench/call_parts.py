"""Where the time of a small call goes: one token that sees four images, with and without gradients, part by part.

OMP_NUM_THREADS=1 python -m bench.call_parts

The parts are timed by turns with the whole call, each alone in a loop: microseconds of CPU time, the least of all
rounds. In a loop alone a part finds the processor's caches as it left them, so the parts may add up to less than the
whole; what is left is a row of its own. `pytest bench/bench_calls.py` times the same calls beside their baselines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench import measure
from bench.bench_calls import GRADIENTS, TOLERANCE, arguments, checked
from bench.model_sides import least_cpu_seconds, often
from mmfs import compiled, dispatch, mmfs_attention
from mmfs.functional import sizes_of

Parts = dict[str, Callable[[], object]]  # the first is the whole


class NothingComputed(torch.autograd.Function):
    """What PyTorch needs for a call with gradients: keeps its inputs, makes an output and a gradient of each input."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        value, logits = tensors[0], tensors[3]
        return value.new_empty(*logits.shape[:2], value.shape[-2] * value.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        return tuple(torch.empty_like(tensor) if is_wanted else None for tensor, is_wanted in wanted)


def main(given: Sequence[str] | None = None) -> None:
    """Print the tables.

    Raises:
        SystemExit: there is no compiled kernel.
    """
    parser = argparse.ArgumentParser(prog="bench.call_parts", description=__doc__)
    parser.add_argument("--channels", type=int, nargs="*", default=[64, 8], help="of a head, one table each")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--calls", type=int, default=50, help="in a round")
    options = parser.parse_args(given)
    if (reason := compiled.why_not()) is not None:
        parser.error(reason)
    torch.set_num_threads(1)
    for channels in options.channels:
        print(f"\n{channels} channels a head\n")
        print("| call | part | µs |\n|---|---|---:|")
        of_calls = {
            "without gradients": forward_parts(channels),
            "forward and backward, images frozen": backward_parts(channels, GRADIENTS),
            "forward and backward, all gradients": backward_parts(channels, ("value", *GRADIENTS)),
        }
        for call, parts in of_calls.items():
            found = least_microseconds(parts, options.rounds, options.calls)
            whole, *rest = found.values()
            for part, microseconds in (found | {"the rest": whole - sum(rest)}).items():
                print(f"| {call} | {part} | {microseconds:.1f} |", flush=True)


def forward_parts(channels: int) -> Parts:
    """Of the public function without gradients."""
    named = arguments("cpu", channels=channels)
    fields = checked(named)
    tensors = [field for field in fields if isinstance(field, Tensor)]
    value, logits = fields.value, fields.attention_logits
    size = (*logits.shape[:2], value.shape[-2] * value.shape[-1])
    kernel = compiled.best_library().mmfs_cpu_mmfs_attention
    ready, out = compiled.mmfs_attention_call(fields), torch.empty(size)
    ready.out = out.data_ptr()
    ready.kept = (*ready.kept, out)
    assert kernel(ready) == compiled.DONE
    exact = mmfs_attention(**named, backend="reference")
    check_close([out], [exact])
    check_close([mmfs_attention(**named)], [exact])
    return {
        "all": lambda: mmfs_attention(**named),
        "the compiled kernel": lambda: kernel(ready),
        "checks and reading of tensors in C": lambda: compiled.read_mmfs_attention(fields),
        "whether anybody has to hear of the call": lambda: dispatch.is_needed(tensors),
        "sizes of levels": lambda: sizes_of(named["spatial_shapes"]),
        "the output": lambda: value.new_empty(size),
    }


def backward_parts(channels: int, names: Sequence[str]) -> Parts:
    """Of the public function and the gradients of these arguments."""
    named = arguments("cpu", channels=channels, requires_grad=tuple(names))
    leaves = [named[name] for name in names]
    fields = checked(named)
    tensors = [field for field in fields if isinstance(field, Tensor)]
    grad = torch.ones(*fields.attention_logits.shape[:2], fields.value.shape[-2] * channels)
    library = compiled.best_library()
    with torch.no_grad():
        ready = compiled.mmfs_attention_call(fields)
        parameters = [part for part in compiled.parameters_of(fields) if part is not None]
        results = [torch.empty_like(grad), *map(torch.empty_like, (fields.value, *parameters))]
    ready.out, ready.grad_out = results[0].data_ptr(), grad.data_ptr()
    ready.kept = (*ready.kept, results, grad)
    ready.grad_value = results[1].data_ptr() if "value" in names else None
    for name, result in zip(compiled.PARAMETERS, results[2:], strict=True):
        setattr(ready, f"grad_{name}", result.data_ptr())
    assert library.mmfs_cpu_mmfs_attention(ready) == compiled.DONE
    assert library.mmfs_cpu_mmfs_attention_backward(ready) == compiled.DONE

    def gradients(**options: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(mmfs_attention(**named, **options), leaves, grad)

    exact = gradients(backend="reference")
    check_close(gradients(), exact)
    check_close([results[1 + (("value", *GRADIENTS).index(name))] for name in names], exact)
    return {
        "all": gradients,
        "the compiled kernel, forward": lambda: library.mmfs_cpu_mmfs_attention(ready),
        "the compiled kernel, backward": lambda: library.mmfs_cpu_mmfs_attention_backward(ready),
        "PyTorch's graph, engine and empty results": lambda: torch.autograd.grad(
            NothingComputed.apply(*tensors), leaves, grad
        ),
    }


def check_close(found: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    error = measure.worst_error(
        [tensor.detach().reshape(of.shape) for tensor, of in zip(found, exact, strict=True)], exact
    )
    assert error < TOLERANCE, f"a result is off by {error:.1e}"


def least_microseconds(parts: Parts, rounds: int, calls: int) -> dict[str, float]:
    """CPU time of one call of each, by turns."""
    least_s = least_cpu_seconds(rounds, *(often(part, calls) for part in parts.values()))
    return {name: 1e6 * each / calls for name, each in zip(parts, least_s, strict=True)}


if __name__ == "__main__":
    main()
