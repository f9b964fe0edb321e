"""mmfs's kernels, compiled without a GPU: machine code for each architecture, and PTX for future ones.

NVRTC compiles the same sources that training uses; there are no separate kernels for TensorRT.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from mmfs.kernels.launch import compile_instance
from mmfs.kernels.nvrtc import OPTIONS, nvrtc
from mmfs.kernels.source import Instance, source_of

ARCHITECTURES: Final = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
PTX_ARCHITECTURE: Final = "compute_80"
"""Of the PTX. A driver at least as new as the NVRTC here translates it for any GPU that is not in the list."""


@dataclass(frozen=True)
class MachineCode:
    """Some kernels for some architectures."""

    images: Mapping[tuple[str, str], bytes]
    """By name of the kernel and architecture: a CUBIN for sm_*, PTX for compute_*."""

    def for_gpu(self, kernel: str, capability: tuple[int, int]) -> bytes:
        """The image for a GPU of this compute capability.

        Machine code runs on GPUs of the same major and the same or a later minor capability, PTX on all later ones.

        Raises:
            ValueError: nothing here runs on it, or there is no such kernel.
        """
        major, minor = capability
        built = {architecture for name, architecture in self.images if name == kernel}
        if not built:
            raise ValueError(
                f"The engine holds no kernel {kernel}: another version of mmfs built it. Build the engine again."
            )
        for candidate in range(minor, -1, -1):
            if f"sm_{major}{candidate}" in built:
                return self.images[kernel, f"sm_{major}{candidate}"]
        own = 10 * major + minor
        for architecture in sorted(built, key=_order, reverse=True):
            if architecture.startswith("compute_") and _number(architecture) <= own:
                return self.images[kernel, architecture]
        raise ValueError(
            f"The GPU has compute capability {major}.{minor}, and {kernel} was compiled for "
            f"{', '.join(sorted(built, key=_order))}. Build the engine again for this GPU."
        )

    def pack(self) -> dict[str, bytes]:
        """Compressed, under names that `unpack` reads: "kernel@architecture"."""
        return {
            f"{kernel}@{architecture}": zlib.compress(image) for (kernel, architecture), image in self.images.items()
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, bytes]) -> MachineCode:
        """The reverse of `pack`.

        Raises:
            ValueError: an entry is damaged.
        """
        images = {}
        for name, data in packed.items():
            kernel, _, architecture = name.partition("@")
            try:
                images[kernel, architecture] = zlib.decompress(data)
            except zlib.error as error:
                raise ValueError(
                    f"The kernel {kernel} for {architecture} is damaged ({error}). Build the engine again."
                ) from error
        return cls(images)

    def sha256(self) -> str:
        """Of all images with their names."""
        digest = hashlib.sha256()
        for (kernel, architecture), image in sorted(self.images.items()):
            digest.update(f"{kernel}@{architecture}:{len(image)}:".encode())
            digest.update(image)
        return digest.hexdigest()


def compile_ahead(
    instances: Iterable[Instance],
    architectures: Sequence[str] = (*ARCHITECTURES, PTX_ARCHITECTURE),
    say: Callable[[str], None] = lambda _line: None,
) -> MachineCode:
    """Compile kernels for architectures, sm_* to machine code and compute_* to PTX.

    Args:
        instances: which kernels.
        architectures: for which.
        say: gets a line before each compilation, which is quick if an earlier result is on disk.

    Raises:
        NvrtcError: there is no NVRTC, or it does not know an architecture.
    """
    images = {}
    for instance in instances:
        for architecture in architectures:
            say(f"kernel {instance.name} for {architecture}")
            is_ptx = architecture.startswith("compute_")
            if is_ptx:
                compiled = compile_ptx(source_of([instance]), architecture)
            else:
                compiled = compile_instance(instance, architecture)
            images[instance.name, architecture] = compiled
    return MachineCode(images)


@cache
def compile_ptx(source: str, architecture: str = PTX_ARCHITECTURE) -> bytes:
    """PTX of a complete source.

    Raises:
        NvrtcError: there is no NVRTC, or it does not know the architecture.
    """
    options = [*OPTIONS, f"--gpu-architecture={architecture}"]
    return nvrtc().compile(source, options, ptx=True).binary


def _order(architecture: str) -> tuple[int, str]:
    return _number(architecture), architecture


def _number(architecture: str) -> int:
    return int(architecture.partition("_")[2])
