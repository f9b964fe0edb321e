"""A device that runs the CUDA sources on the CPU, compiled as C++ under mmfs/kernels/emulation/emulation.h.

It stands in for `mmfs.kernels.launch.CudaDevice`, and for the driver that the launches of a plugin go to.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from mmfs.cuda import ROW_KERNELS
from mmfs.kernels.arguments import LAYOUT, KernelArguments
from mmfs.kernels.plan import Launch
from mmfs.kernels.source import Instance, source_of
from mmfs.kernels.value_gradient import value_gradient_instances
from plugins_trt.launches import PackedLaunch

SHARED_BYTES = 99 * 1024  # the least that a block can ask for on the GPUs that run the kernels
HEADERS = Path(__file__).parent / "mmfs/kernels/emulation"
READ_ONLY = frozenset(
    (
        "image_planes",
        "visible",
        "value",
        "locations",
        "weights",
        "points",
        "offsets",
        "logits",
        "offset_table",
        "logit_table",
        "null_value",
        "grad_out",
    )
)
MAIN = """
extern "C" std::int64_t arguments_bytes() { return sizeof(mmfs::Arguments); }

// What went wrong, or null.
extern "C" const char* emulate(const char* name, const void* arguments, const std::int64_t* grid, int threads,
                               int shared_bytes, bool falling, const emulation::Range* ranges, int num_ranges) {
    using Kernel = void (*)(mmfs::Arguments);
    static const std::pair<std::string, Kernel> kernels[] = {%s};
    static std::string message;
    static Kernel kernel;
    for (const auto& [known, entry] : kernels) {
        if (known == name) {
            kernel = entry;
        }
    }
    emulation::ranges.assign(ranges, ranges + num_ranges);
    try {
        emulation::launch([](const void* given) { kernel(*static_cast<const mmfs::Arguments*>(given)); }, arguments,
                          grid, threads, shared_bytes, falling);
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
    return nullptr;
}
"""


class EmulatedDevice:
    """Runs launches on CPU tensors; an instance is compiled when it is first launched.

    num_sms and shared_bytes are for planning. falling: the threads of a block run from the last to the first.
    changed: a piece of the sources and what stands in its place, to see that a test notices; in changed_kernel alone,
    if that is given, so that the others need not be compiled again. flags: of the compiler.
    """

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        self.folder = folder
        self.flags = tuple(flags)
        self.num_sms = 1
        self.shared_bytes = SHARED_BYTES
        self.falling = False
        self.changed: tuple[str, str] | None = None
        self.changed_kernel: str | None = None
        self.launched: list[Launch] = []
        self._libraries: dict[str, ctypes.CDLL] = {}

    def launch(self, launch: Launch, arguments: KernelArguments) -> None:
        tensors = ((tensor, name not in READ_ONLY) for name, tensor in arguments.tensors().items())
        self._emulate(launch, arguments.pack(), tensors)

    def launch_packed(self, packed: PackedLaunch, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """A launch of a plugin, which may read inputs, and read and write outputs."""
        tensors = [*((tensor, False) for tensor in inputs), *((tensor, True) for tensor in outputs)]
        self._emulate(packed.launch, packed.arguments, tensors)

    def _emulate(self, launch: Launch, packed: bytes, tensors: Iterable[tuple[Tensor, bool]]) -> None:
        """tensors: what may be read, and whether it may be written."""
        self.launched.append(launch)
        instances = siblings(launch.instance)
        source = source_of(instances)
        if self.changed is not None and self.changed_kernel in (None, launch.instance.kernel):
            assert self.changed[0] in source
            source = source.replace(*self.changed)
        library = self.library(source, instances)
        ranges = [number for tensor, writable in tensors for number in (tensor.data_ptr(), tensor.nbytes, writable)]
        message = library.emulate(
            launch.instance.name.encode(),
            packed,
            (ctypes.c_int64 * 3)(*launch.grid),
            launch.threads,
            launch.shared_bytes,
            self.falling,
            (ctypes.c_uint64 * len(ranges))(*ranges),
            len(ranges) // 3,
        )
        if message is not None:
            raise RuntimeError(f"{launch.instance.name}: {message.decode()}")

    def library(self, source: str, instances: Sequence[Instance]) -> ctypes.CDLL:
        if source not in self._libraries:
            path = self.folder / f"kernels{len(self._libraries)}.so"
            table = ", ".join(f'{{"{instance.name}", {instance.name}}}' for instance in instances)
            code = "\n".join(['#include "emulation.h"', source, MAIN % table])
            # Contraction would round locations otherwise than PyTorch does; see rounded_product.
            command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
            command += ["-ffp-contract=off", "-shared", "-fPIC", *self.flags, f"-I{HEADERS}"]
            command += ["-x", "c++", "-", "-o", str(path)]
            done = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr[:4000]
            library = ctypes.CDLL(str(path))
            library.emulate.restype = ctypes.c_char_p
            library.arguments_bytes.restype = ctypes.c_int64
            assert library.arguments_bytes() == LAYOUT.size
            self._libraries[source] = library
        return self._libraries[source]


def siblings(instance: Instance) -> list[Instance]:
    """Instances that the same call may need: compiled together, the compiler reads the sources once."""
    if instance.kernel in ROW_KERNELS:
        return [Instance(kernel, instance.dtype, instance.arguments) for kernel in ROW_KERNELS]
    both = (value_gradient_instances(instance.dtype, num_channels) for num_channels in (32, 64))
    return next(instances for instances in both if instance in instances)
