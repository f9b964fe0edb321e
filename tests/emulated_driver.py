"""A CUDA driver for tests: a library with the driver's functions that runs mmfs's kernels on the CPU.

The kernels are compiled as C++ under `tests/mmfs/kernels/emulation/emulation.h`, which checks every load and store.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from mmfs.kernels.source import Instance, source_of
from plugins_trt.driver import Driver

HEADERS = Path(__file__).parent / "mmfs/kernels/emulation"
MAIN = """
#include <cstring>
#include <map>

namespace {
using Kernel = void (*)(mmfs::Arguments);
const std::map<std::string, Kernel> kernels = {%s};
std::string image;
std::string log_text;
int processors = 1, major = 9, minor = 0, context = 1;
Kernel launched = nullptr;
std::string message;
}  // namespace

extern "C" {
void stage(const emulation::Range* ranges, int count, int num_sms, int has_context) {
    emulation::ranges.assign(ranges, ranges + count);
    processors = num_sms;
    context = has_context;
    log_text.clear();
}
const char* what_happened() { return log_text.c_str(); }

int cuDriverGetVersion(int* version) { *version = 13010; return 0; }
int cuCtxGetCurrent(void** current) { *current = context ? &context : nullptr; return 0; }
int cuCtxGetDevice(int* device) { *device = 0; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 16 ? processors : attribute == 75 ? major : minor;
    return device;
}
int cuModuleLoadData(void** module, const void* data) {
    image = static_cast<const char*>(data);
    log_text += "load " + image + "\\n";
    *module = &image;
    return image == "broken" ? 200 : 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    const auto found = kernels.find(name);
    if (module != &image || found == kernels.end()) return 500;
    *function = reinterpret_cast<void*>(found->second);
    return 0;
}
int cuGetErrorString(int status, const char** words) {
    *words = status == 200 ? "device kernel image is invalid" : status == 719 ? message.c_str() : "not found";
    return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned two, unsigned three,
                   unsigned shared_bytes, void* stream, void** parameters, void** extra) {
    if (two != 1 || three != 1 || extra != nullptr) return 1;
    log_text += "launch " + std::to_string(x) + " " + std::to_string(y) + " " + std::to_string(z) + " on stream " +
                std::to_string(reinterpret_cast<std::uintptr_t>(stream)) + "\\n";
    launched = reinterpret_cast<Kernel>(function);
    const std::int64_t grid[3] = {x, y, z};
    try {
        emulation::launch([](const void* given) { launched(*static_cast<const mmfs::Arguments*>(given)); },
                          parameters[0], grid, threads, shared_bytes, false);
    } catch (const std::exception& error) {
        message = error.what();
        return 719;
    }
    return 0;
}
}
"""


class EmulatedGpu:
    """The driver, and what it may touch and has done."""

    def __init__(self, library: Path) -> None:
        self.path = str(library)
        self.driver = Driver(self.path)
        self._library = ctypes.CDLL(str(library))
        self._library.what_happened.restype = ctypes.c_char_p

    def stage(
        self,
        inputs: Iterable[torch.Tensor] = (),
        outputs: Iterable[torch.Tensor] = (),
        *,
        num_sms: int = 1,
        has_context: bool = True,
    ) -> None:
        """Allow inputs to be read, and outputs to be written too."""
        ranges = [number for tensor in inputs for number in (tensor.data_ptr(), tensor.nbytes, 0)]
        ranges += [number for tensor in outputs for number in (tensor.data_ptr(), tensor.nbytes, 1)]
        self.stage_ranges((ctypes.c_uint64 * len(ranges))(*ranges), num_sms, has_context)

    def stage_ranges(self, ranges: ctypes.Array[ctypes.c_uint64], num_sms: int = 1, has_context: bool = True) -> None:
        """ranges: for each its address, its bytes, and whether it may be written, in turn."""
        self._library.stage(ranges, len(ranges) // 3, num_sms, has_context)

    def events(self) -> list[str]:
        """What the driver was asked for since `stage`."""
        return self._library.what_happened().decode().splitlines()


def gpu_maker(folder: Path) -> Callable[[tuple[Instance, ...]], EmulatedGpu]:
    """Compiles an emulated GPU that knows these kernels, with g++; skips the test where that is missing."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: it compiles the CUDA sources for the CPU")
    libraries: dict[tuple[Instance, ...], Path] = {}

    def make(instances: tuple[Instance, ...]) -> EmulatedGpu:
        if instances not in libraries:
            library = folder / f"libcuda{len(libraries)}.so"
            table = ", ".join(f'{{"{instance.name}", {instance.name}}}' for instance in instances)
            code = "\n".join(['#include "emulation.h"', source_of(instances), MAIN % table])
            command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wno-unknown-pragmas", "-ffp-contract=off"]
            command += ["-shared", "-fPIC", f"-I{HEADERS}", "-x", "c++", "-", "-o", str(library)]
            done = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr[:4000]
            libraries[instances] = library
        # Each test gets a library of its own, because it has state.
        own = folder / f"{libraries[instances].stem}-{len(list(folder.iterdir()))}.so"
        shutil.copy(libraries[instances], own)
        return EmulatedGpu(own)

    return make
