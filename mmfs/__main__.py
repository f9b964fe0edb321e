"""`python -m mmfs`: versions, devices, which backend computes and why, and a check of both ops against float64."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import packages_distributions, version

import torch
from torch import Tensor

import mmfs
from mmfs import compiled
from mmfs.functional import why_not_compiled, why_not_cuda
from mmfs.kernels.nvrtc import Nvrtc, NvrtcError, find_nvrtc

TOLERANCE = 1e-4
"""Largest error of float32, over the largest element; a wrong pixel or a lost image is off by 0.01 or more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 0 if every check passed, 1 otherwise."""
    argparse.ArgumentParser(
        prog="python -m mmfs",
        description="Prints which versions are installed, which devices there are, and which backend computes on each "
        "and why; then checks outputs and gradients of both ops on each against float64, in a few seconds. "
        "Exits with 0 if every check passed, with 1 otherwise.",
    ).parse_args(arguments)
    print(
        f"mmfs {mmfs.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    if packages := cuda_packages():
        print(f"for the CUDA kernels: {', '.join(packages)}")
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if len(devices) == 1:
        print("no check of the CUDA kernels: PyTorch sees no CUDA device here")
    failed = False
    for device in devices:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
        print(f"\n{device}: {name}")
        sample = torch.empty(0, device=device)
        if device.type == "cuda":
            print(f"  CUDA kernels: {availability(why_not_cuda(sample))}")
        else:
            print(f"  compiled CPU kernel: {availability(why_not_compiled(sample))}")
            if why_not_compiled(sample) is None and (slower := compiled.why_slower()) is not None:
                print(f"    {compiled.TITLES[compiled.best_instruction_set()]}, because {slower}")
        for op, tensors, integers in (ms_deform_attn_case(), mmfs_attention_case()):
            for what, error in errors(op, tensors, integers, device).items():
                passed = error <= TOLERANCE
                failed |= not passed
                print(f"  {'ok    ' if passed else 'WRONG '} {op.__name__} {what}: error {error:.1e}")
    print(f"\n{'Something is wrong: see the lines above.' if failed else 'All checks passed.'}")
    return int(failed)


def cuda_packages() -> list[str]:
    """Names and versions of what is installed of CuPy and NVRTC."""
    names = sorted(set(packages_distributions().get("cupy", ())))  # the package has a name like cupy-cuda13x
    found = [f"{name} {version(name)}" for name in names]
    if (library := find_nvrtc()) is not None:
        try:
            found.append("NVRTC {}.{}".format(*Nvrtc(library).version))
        except (OSError, NvrtcError) as error:
            found.append(f"an NVRTC that does not work ({error})")
    return found


def availability(reason: str | None) -> str:
    return "yes" if reason is None else f"no, {reason}"


SIZES = ((7, 5), (3, 4))  # two levels, not square
NUM_PIXELS = sum(h * w for h, w in SIZES)


Case = tuple[Callable[..., Tensor], dict[str, Tensor], dict[str, Tensor]]
"""An op, its floating tensors and its integer tensors."""


def ms_deform_attn_case() -> Case:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "value": torch.randn(2, NUM_PIXELS, 3, 8, generator=generator),
        "sampling_locations": torch.rand(2, 11, 3, 2, 4, 2, generator=generator) * 1.4 - 0.2,
        "attention_weights": torch.rand(2, 11, 3, 2, 4, generator=generator),
    }
    return mmfs.ms_deform_attn, tensors, {}


def mmfs_attention_case() -> Case:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "value": torch.randn(4, NUM_PIXELS, 3, 8, generator=generator),
        "reference_points": torch.rand(2, 11, 2, generator=generator),
        "sampling_offsets": torch.randn(2, 11, 3, 4, 2, generator=generator) * 0.3,
        "attention_logits": torch.randn(2, 11, 3, 2, 4, generator=generator),
        "offset_table": torch.randn(3, 3, 4, 2, generator=generator) * 0.1,
        "logit_table": torch.randn(3, 3, 2, 4, generator=generator),
        "null_value": torch.randn(3, 8, generator=generator),
    }
    visible = torch.randint(0, 5, (2, 11, 2), generator=generator).sort(-1).values
    return mmfs.mmfs_attention, tensors, {"visible": visible}


def errors(
    op: Callable[..., Tensor], tensors: dict[str, Tensor], integers: dict[str, Tensor], device: torch.device
) -> dict[str, float]:
    """Errors of the output and of the gradients in float32, each over its largest element."""
    exact = output_and_gradients(op, tensors, integers, device, torch.float64, "reference")
    actual = output_and_gradients(op, tensors, integers, device, torch.float32, None)
    return {what: relative_error(actual[what], exact[what]) for what in exact}


def output_and_gradients(
    op: Callable[..., Tensor],
    tensors: dict[str, Tensor],
    integers: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None,
) -> dict[str, Tensor]:
    """The gradients are of the sum of the output's sines."""
    leaves = {name: tensor.to(device, dtype, copy=True).requires_grad_() for name, tensor in tensors.items()}
    integers = {name: integer.to(device) for name, integer in integers.items()}
    out = op(spatial_shapes=SIZES, backend=backend, **leaves, **integers)
    gradients = torch.autograd.grad(out.sin().sum(), list(leaves.values()))
    named = {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {"output": out.detach(), **named}


def relative_error(actual: Tensor, exact: Tensor) -> float:
    error = (actual.double() - exact).abs().max() / exact.abs().max()
    return float("inf") if error.isnan() else float(error)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a report that nobody reads any more just ends
    sys.exit(main())
