"""A device that runs the CUDA sources on the CPU, compiled as C++ under emulation/emulation.h."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from mmfs.cuda import ROW_KERNELS
from mmfs.kernels.arguments import LAYOUT, KernelArguments
from mmfs.kernels.plan import Launch
from mmfs.kernels.source import Instance, source_of
from mmfs.kernels.value_gradient import value_gradient_instances

SHARED_BYTES = 99 * 1024  # the least that a block can ask for on the GPUs that run the kernels
HEADERS = Path(__file__).parent / "emulation"
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
    if that is given, so that the others need not be compiled again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_sms = 1
        self.shared_bytes = SHARED_BYTES
        self.falling = False
        self.changed: tuple[str, str] | None = None
        self.changed_kernel: str | None = None
        self.launched: list[Launch] = []
        self._libraries: dict[str, ctypes.CDLL] = {}

    def launch(self, launch: Launch, arguments: KernelArguments) -> None:
        self.launched.append(launch)
        instances = siblings(launch.instance)
        source = source_of(instances)
        if self.changed is not None and self.changed_kernel in (None, launch.instance.kernel):
            assert self.changed[0] in source
            source = source.replace(*self.changed)
        library = self.library(source, instances)
        ranges = [
            number
            for name, tensor in arguments.tensors().items()
            for number in (tensor.data_ptr(), tensor.nbytes, name not in READ_ONLY)
        ]
        message = library.emulate(
            launch.instance.name.encode(),
            arguments.pack(),
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
            command += ["-ffp-contract=off", "-shared", "-fPIC", f"-I{HEADERS}", "-x", "c++", "-", "-o", str(path)]
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


@pytest.fixture(scope="session")
def compiled_device(tmp_path_factory: pytest.TempPathFactory) -> EmulatedDevice:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the CPU")
    return EmulatedDevice(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def device(compiled_device: EmulatedDevice) -> EmulatedDevice:
    """As new, except that what was compiled stays."""
    compiled_device.num_sms = 1
    compiled_device.shared_bytes = SHARED_BYTES
    compiled_device.falling = False
    compiled_device.changed = None
    compiled_device.changed_kernel = None
    compiled_device.launched.clear()
    return compiled_device


@pytest.fixture(autouse=True)
def _uninitialized_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # with which torch.empty fills its memory
    yield
    torch.use_deterministic_algorithms(False)
