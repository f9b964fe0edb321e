"""A device that runs the CUDA sources on the CPU, compiled as C++ under emulation/emulation.h."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from mmfs.kernels.arguments import LAYOUT, Arguments
from mmfs.kernels.plan import Launch
from mmfs.kernels.source import Instance, kernel_source

HEADERS = Path(__file__).parent / "emulation"
READ_ONLY = frozenset(
    (
        "image_planes",
        "visible",
        "value",
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

extern "C" const char* emulate(const void* arguments, const std::int64_t* grid, int threads, int shared_bytes,
                               bool falling, const emulation::Range* ranges, int num_ranges) {
    static std::string message;
    emulation::ranges.assign(ranges, ranges + num_ranges);
    try {
        emulation::launch(
            [](const void* given) { %s(*static_cast<const mmfs::Arguments*>(given)); }, arguments, grid, threads,
            shared_bytes, falling);
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
    return nullptr;
}
"""


class EmulatedDevice:
    """Runs launches on CPU tensors; an instance is compiled when it is first launched.

    num_processors is for plan_splits. falling: the threads of a block run from the last to the first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_processors = 1
        self.falling = False
        self.launched: list[Launch] = []
        self._libraries: dict[tuple[Instance, str], ctypes.CDLL] = {}

    def launch(self, launch: Launch, arguments: Arguments) -> None:
        self.launched.append(launch)
        library = self.library(launch.instance, kernel_source())
        ranges = [
            number
            for name, tensor in arguments.tensors().items()
            for number in (tensor.data_ptr(), tensor.nbytes, name not in READ_ONLY)
        ]
        message = library.emulate(
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

    def library(self, instance: Instance, kernels: str) -> ctypes.CDLL:
        """The compiled instance of these sources."""
        if (instance, kernels) not in self._libraries:
            path = self.folder / f"{instance.name}_{len(self._libraries)}.so"
            code = "\n".join(['#include "emulation.h"', kernels, instance.entry, MAIN % instance.name])
            # Contraction would round locations otherwise than PyTorch does; see rounded_product.
            command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
            command += ["-ffp-contract=off", "-shared", "-fPIC", f"-I{HEADERS}", "-x", "c++", "-", "-o", str(path)]
            done = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr[:4000]
            library = ctypes.CDLL(str(path))
            library.emulate.restype = ctypes.c_char_p
            library.arguments_bytes.restype = ctypes.c_int64
            assert library.arguments_bytes() == LAYOUT.size
            self._libraries[instance, kernels] = library
        return self._libraries[instance, kernels]


@pytest.fixture(scope="session")
def compiled_device(tmp_path_factory: pytest.TempPathFactory) -> EmulatedDevice:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the CPU")
    return EmulatedDevice(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def device(compiled_device: EmulatedDevice) -> EmulatedDevice:
    """As new, except that what was compiled stays."""
    compiled_device.num_processors = 1
    compiled_device.falling = False
    compiled_device.launched.clear()
    return compiled_device
