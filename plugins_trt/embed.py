"""Writes the machine code that the C++ plugin holds: `python -m plugins_trt.embed embedded.inc --channels 32 64`.

CMake runs it (csrc/CMakeLists.txt). Needs NVRTC and no GPU; kernels in mmfs's cache are not compiled again.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from mmfs.kernels.source import Instance
from plugins_trt.launches import instances_of
from plugins_trt.machine_code import ARCHITECTURES, PTX_ARCHITECTURE, compile_ahead
from plugins_trt.node_contract import VALUE_TYPES, Node

CHANNELS: Final = (16, 32, 40, 64, 80, 96, 128)
"""Channels of a head in the usual models; several numbers share kernels."""

TYPES: Final = {str(dtype).removeprefix("torch."): dtype for dtype in VALUE_TYPES}


def instances(channels: Sequence[int], dtypes: Sequence[torch.dtype]) -> list[Instance]:
    """All kernels of the nodes for these numbers of channels and types of value, each once."""
    nodes = (Node("MMFS", (1, 1)), Node("MSDeformAttn", (1, 1)))
    found = [
        instance
        for dtype in dtypes
        for num_channels in channels
        for node in nodes
        for instance in instances_of(node, num_channels, dtype)
    ]
    return list(dict.fromkeys(found))


def entries(packed: Mapping[str, bytes]) -> Iterator[str]:
    """C++ initializers {name, data, size}, from what `MachineCode.pack` returns."""
    for name, data in packed.items():
        # Always three octal digits: after a shorter escape, a following digit would be read as part of it.
        octal = "".join(f"\\{byte:03o}" for byte in data)
        yield f'{{"{name}",\n'
        for start in range(0, len(octal), 480):
            yield f' "{octal[start : start + 480]}"\n'
        yield f" , {len(data)}}},\n"


def main() -> None:
    """Entry point."""
    arguments = _parser().parse_args()
    wanted = instances(arguments.channels, [TYPES[name] for name in arguments.types])
    num_steps, start, step = len(wanted) * len(arguments.architectures), time.monotonic(), 0

    def say(line: str) -> None:
        nonlocal step
        passed = time.monotonic() - start
        left = f", about {passed / step * (num_steps - step):.0f} s left" if step else ""
        step += 1
        print(f"{line} ({step} of {num_steps}{left})", flush=True)

    packed = compile_ahead(wanted, arguments.architectures, say).pack()
    scratch = arguments.out.with_name(f"{arguments.out.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="ascii") as file:
            file.writelines(entries(packed))
        scratch.replace(arguments.out)
    finally:
        scratch.unlink(missing_ok=True)
    print(f"{arguments.out}: {len(packed)} images, {sum(map(len, packed.values())) / 1e6:.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m plugins_trt.embed", description=__doc__)
    parser.add_argument("out", type=Path, help="the file to write, which embedded.cpp includes")
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS, help="channels of a head (default: usual)")
    parser.add_argument("--types", choices=TYPES, nargs="+", default=list(TYPES), help="of the values (default: all)")
    parser.add_argument(
        "--architectures",
        nargs="+",
        default=(*ARCHITECTURES, PTX_ARCHITECTURE),
        help="sm_* for machine code, compute_* for PTX (default: all that plans get)",
    )
    return parser


if __name__ == "__main__":
    main()
