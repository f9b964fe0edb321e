"""A kernel as a plan launches it without a plugin: an entry point with plain arguments around one of mmfs's kernels.

TensorRT's ahead-of-time plugins are one launch of one kernel, whose arguments are the addresses of the inputs, 32-bit
integers, and the addresses of the outputs. So the entry point here fills the structure that the kernel takes
(`mmfs/kernels/arguments.cuh`) from those and from the node's attributes, which are compiled in. A row's samples are
never split: the parts would need scratch memory and a second launch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from mmfs.kernels.arguments import ARRAY, CODES, FLOAT, NAMES, POINTER, SIZES, KernelArguments, kind_of
from mmfs.kernels.source import Instance, kernel_source
from plugins_trt.launches import arguments_of, channels_of, plan
from plugins_trt.node_contract import INPUTS, Node, sizes_of

SCALARS: Final = ("batch", "num_queries", "num_images")
"""The 32-bit integers between inputs and output, in order: the sizes that may vary in a plan."""

OPEN_MEMBERS: Final = {
    "num_rows": "static_cast<mmfs::int64>(batch) * num_queries",
    "num_queries": "num_queries",
    "num_images": "num_images",
    "num_pixels": "num_images * {pixels_per_image}LL",
}
"""Members of the structure that depend on them, in C++."""


@dataclass(frozen=True)
class _Parameter:
    """A parameter of the entry point, where a launch has an address."""

    name: str
    dtype: torch.dtype

    @property
    def declaration(self) -> str:
        # In the structure only pointers to integers have a type: all others are void*.
        return f"const mmfs::int64* {self.name}" if self.dtype == torch.int64 else f"void* {self.name}"


@dataclass(frozen=True)
class Entry:
    """An entry point, and how it is launched: grid (x, y, 1) with x = max(1, ceil(B*Q / rows_per_block))."""

    instance: Instance
    """The kernel inside."""

    name: str
    """Of the entry point; nodes that differ have different ones."""

    text: str
    """The entry point alone, in CUDA."""

    rows_per_block: int
    grid_y: int
    threads: int
    shared_bytes: int

    @property
    def source(self) -> str:
        """The complete text to compile."""
        return f"{kernel_source()}\n{self.text}"

    @classmethod
    def of(cls, node: Node, shapes: Sequence[Sequence[int]], types: Sequence[torch.dtype]) -> Entry:
        """For a node with inputs of these shapes and types.

        Args:
            node: which.
            shapes: of the inputs, in the order of `node_contract.INPUTS`. B, Q and N may have any values that fit
                together: the entry point takes all. Every other size is compiled in.
            types: of the same inputs.

        Raises:
            ValueError: the shapes do not fit the node, or there are no heads or channels.
        """
        sizes = sizes_of(node, shapes)
        if not sizes.num_heads * sizes.num_channels:
            raise ValueError(f"value of {node.operator} has the shape {list(shapes[0])}. Expected heads and channels.")
        inputs = [_Parameter(name, dtype) for name, dtype in zip(INPUTS[node.operator], types, strict=True)]
        output = _Parameter("out", inputs[0].dtype)
        given = {parameter.name: parameter for parameter in inputs}
        channels = channels_of(sizes.num_channels, output.dtype)
        launch = plan(node, sizes, channels)
        assignments = "\n".join(
            f"    arguments.{line};" for line in _assignments(arguments_of(node, sizes, given, output))
        )
        parameters = ", ".join([p.declaration for p in inputs] + [f"int {n}" for n in SCALARS] + [output.declaration])
        digest = hashlib.sha256(f"{parameters}{assignments}".encode()).hexdigest()[:8]
        name = f"{launch.instance.name}_{digest}"
        text = (
            f'extern "C" __global__ void __launch_bounds__({launch.threads}, 1) {name}({parameters}) {{\n'
            "    mmfs::Arguments arguments = {};\n"
            f"{assignments}\n"
            "    if (arguments.num_rows == 0) return;\n"
            f"    {launch.instance.function}(arguments);\n"
            "}\n"
        )
        return cls(
            launch.instance,
            name,
            text,
            launch.threads // channels.lanes,
            launch.grid[1],
            launch.threads,
            launch.shared_bytes,
        )


def _assignments(arguments: KernelArguments) -> Iterator[str]:
    """C++ that sets every member that is not zero."""
    for name, code in zip(NAMES, CODES, strict=True):
        part = getattr(arguments, name)
        if name in OPEN_MEMBERS:
            yield f"{name} = {OPEN_MEMBERS[name].format(pixels_per_image=arguments.pixels_per_image)}"
        elif code == SIZES:
            yield from (f"{name}[{level}] = {size}" for level, size in enumerate(part))
        elif not part:
            continue
        elif code == ARRAY:
            yield f"{name} = {{{part.name}, {kind_of(name, part)}}}"
        elif code == POINTER:
            yield f"{name} = {part.name}"
        elif code == FLOAT:
            yield f"{name} = {float(part).hex()}"
        else:
            yield f"{name} = {int(part)}"
