"""What torch.compile does during a training: how long it takes, and what to do when it fails."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.callback import callback_handler
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from mmfs.plurals import counted
from models.component_names import CompiledComponent
from trainer.errors import UsageError

MOST_GRAPHS = 32
"""Of one layer's code. Blocks of a U-Net that share it differ in their widths, and each has a graph for several images,
one for a single one, and the first for the very number that it saw; PyTorch's own limit of 8 is too few for them."""


class Compilation:
    """The compiler's work since the last `report`, while `watched` is entered."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._seconds = 0.0
        self._num_graphs = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, what is compiled is counted. The hooks of modules are guarded, which PyTorch leaves out for speed:
        layers share their code, and one with a hook must not run as one without."""
        handler = callback_handler
        handler.register_start_callback(self._begin)
        handler.register_end_callback(self._end)
        self._num_graphs = _num_graphs()
        try:
            with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS, skip_nnmodule_hook_guards=False):
                yield
        finally:
            handler.remove_start_callback(self._begin)
            handler.remove_end_callback(self._end)

    def _begin(self, _: Any) -> None:
        self._begun = time.monotonic()

    def _end(self, _: Any) -> None:
        self._seconds += time.monotonic() - self._begun

    def report(self) -> str | None:
        """A line on what was compiled since the last one; None if nothing was."""
        num, seconds = _num_graphs() - self._num_graphs, self._seconds
        self._num_graphs, self._seconds = _num_graphs(), 0.0
        return f"compiled {counted(num, 'graph')} in {seconds:.0f} s, which steps after it do not take" if num else None


def _num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


@contextmanager
def compiler_errors_explained() -> Iterator[None]:
    """Turn an error of the compiler into a sentence. Raises UsageError."""
    try:
        yield
    except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else "no reason is given"
        raise UsageError(
            f"PyTorch could not compile a layer ({type(error).__name__}: {reason.rstrip('.:')}). Go on without it, "
            "with --compile '[]', or with fewer components of --compile; on a CPU, compiling needs a C++ compiler (on "
            "Debian: apt install g++). The run can be resumed either way."
        ) from error


def refuse_miscompiled(components: Collection[CompiledComponent], device: torch.device) -> None:
    """The compiler of torch 2.13 makes wrong code for a CPU of an up block of diffusers' U-Net, for one image and some
    sizes (2 x 2 always): all gradients from its upsampler down are 0, without a word. Raises UsageError."""
    if device.type == "cpu" and "unet" in components:
        others = ", ".join(sorted(set(components) - {"unet"}))
        raise UsageError(
            "--compile has unet, which PyTorch's compiler gets wrong on a CPU: for some sizes of images it loses all "
            f"gradients behind an up block. Leave it out: --compile '[{others}]'."
        )


def uncompiled() -> Any:
    """A context in which layers run as they are written: for samples, whose shapes change with every token."""
    return torch.compiler.set_stance("force_eager")
