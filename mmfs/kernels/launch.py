"""Launches on a GPU: the only file that imports CuPy, and only when the first kernel is wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mmfs.kernels.arguments import LAYOUT, KernelArguments
from mmfs.kernels.cache import cache_key, cached_binary
from mmfs.kernels.nvrtc import OPTIONS, nvrtc, why_no_nvrtc
from mmfs.kernels.plan import SHARED_BYTES, Launch
from mmfs.kernels.source import Instance, source_of

OLDEST_CAPABILITY = (8, 0)
"""bfloat16 is converted by an instruction that older GPUs lack."""


@cache
def why_not_launch(device_index: int) -> str | None:
    """Why this GPU cannot run the kernels; None if it can."""
    if (reason := why_too_old(torch.cuda.get_device_capability(device_index))) is not None:
        return reason
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'mmfs[cuda]', or 'mmfs[cuda12]' for CUDA 12"
    return why_no_nvrtc()


def why_too_old(capability: tuple[int, int]) -> str | None:
    """Why a GPU of this compute capability, major and minor, cannot run the kernels; None if it can."""
    if capability >= OLDEST_CAPABILITY:
        return None
    own, oldest = (f"{major}.{minor}" for major, minor in (capability, OLDEST_CAPABILITY))
    return f"the GPU has compute capability {own}, and mmfs's CUDA kernels need {oldest} or later"


class CudaDevice:
    """One GPU: compiles instances when they are first wanted, launches on PyTorch's current stream."""

    def __init__(self, index: int) -> None:
        self.index = index
        properties = torch.cuda.get_device_properties(index)
        self.num_sms: int = properties.multi_processor_count
        self._architecture = f"sm_{properties.major}{properties.minor}"
        self._functions: dict[Instance, Any] = {}
        self._granted_bytes: dict[Instance, int] = {}  # shared memory of kernels that asked for more than SHARED_BYTES

    @cached_property
    def shared_bytes(self) -> int:
        """Bytes of shared memory that a block can ask for."""
        import cupy

        most: int = cupy.cuda.Device(self.index).attributes["MaxSharedMemoryPerBlockOptin"]
        return most

    def launch(self, launch: Launch, arguments: KernelArguments) -> None:
        import cupy
        import numpy

        packed = numpy.frombuffer(arguments.pack(), dtype=packed_dtype())
        with torch.cuda.device(self.index):
            # Inside the guard: CuPy loads a module into, and launches in, the current device's context.
            function = self.function(launch.instance)
            if launch.shared_bytes > max(SHARED_BYTES, self._granted_bytes.get(launch.instance, 0)):
                function.max_dynamic_shared_size_bytes = launch.shared_bytes
                self._granted_bytes[launch.instance] = launch.shared_bytes
            with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream, self.index):
                function(launch.grid, (launch.threads, 1, 1), (packed,), shared_mem=launch.shared_bytes)

    def function(self, instance: Instance) -> Any:
        """The kernel, compiled and loaded."""
        if instance not in self._functions:
            import cupy

            binary = compile_instance(instance, self._architecture)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{instance.name}.cubin"
                path.write_bytes(binary)
                module = cupy.RawModule(path=str(path))
                # CuPy reads the file here; it is gone afterwards.
                self._functions[instance] = module.get_function(instance.name)
                self._functions[instance].compile()
        return self._functions[instance]

    def warm_up(self, instances: Iterable[Instance]) -> None:
        with torch.cuda.device(self.index):
            for instance in instances:
                self.function(instance)


@cache
def packed_dtype() -> Any:
    """NumPy's, of all members: CuPy passes one element of a structured dtype by value."""
    import numpy

    return numpy.dtype([("members", numpy.int64, (LAYOUT.size // 8,))])


@cache
def cuda_device(index: int) -> CudaDevice:
    return CudaDevice(index)


def compile_instance(instance: Instance, architecture: str) -> bytes:
    """Machine code, from disk if any process compiled it before."""
    source = source_of([instance])
    options = (*OPTIONS, f"--gpu-architecture={architecture}")
    compiler = nvrtc()
    key = cache_key(source, options, compiler.version)
    return cached_binary(key, lambda: compiler.compile(source, options).binary)
