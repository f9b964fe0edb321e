"""The CUDA driver: the few functions that load a kernel and launch it, for runtimes without PyTorch and CuPy.

Everything happens in the current context, which the caller has made: a runtime calls its plugins inside its own.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from plugins_trt.launches import PackedLaunch
from plugins_trt.machine_code import MachineCode

LIBRARY: Final = "libcuda.so.1"

# Of enum CUdevice_attribute.
NUM_SMS: Final = 16
CAPABILITY_MAJOR: Final = 75
CAPABILITY_MINOR: Final = 76


class DriverError(RuntimeError):
    """The CUDA driver is missing or refused something."""


class Driver:
    """The driver's library.

    Args:
        library: its file name.

    Raises:
        DriverError: it cannot be loaded.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise DriverError(
                f"The CUDA driver {library} cannot be loaded ({error}). Expected an NVIDIA GPU and driver."
            ) from error
        self._gpus: dict[int, Gpu] = {}

    def current_gpu(self) -> Gpu:
        """The GPU of the context that is current; what was loaded in a context stays loaded."""
        context = ctypes.c_void_p()
        self.call("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            raise DriverError("No CUDA context is current. Expected to be called by a runtime that has made one.")
        if context.value not in self._gpus:
            self._gpus[context.value] = Gpu(self)
        return self._gpus[context.value]

    def cuda_version(self) -> tuple[int, int]:
        """The newest CUDA whose programs this driver runs."""
        number = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(number))
        return number.value // 1000, number.value % 1000 // 10

    def call(self, function: str, *arguments: object) -> None:
        """One function of the driver.

        Raises:
            DriverError: with the driver's message.
        """
        status = getattr(self._library, function)(*arguments)
        if status:
            words = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(words))
            raise DriverError(f"{function} failed: {(words.value or b'unknown error').decode()} ({status}).")


class Gpu:
    """One context: attributes of its device, and the kernels loaded in it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        device = ctypes.c_int()
        driver.call("cuCtxGetDevice", ctypes.byref(device))
        self.num_sms = self._attribute(NUM_SMS, device)
        self.capability = self._attribute(CAPABILITY_MAJOR, device), self._attribute(CAPABILITY_MINOR, device)
        self._kernels: dict[bytes, ctypes.c_void_p] = {}

    def launch(self, code: MachineCode, packed: PackedLaunch, stream: int) -> None:
        """Put a launch on a stream.

        Args:
            code: holds the kernel for this GPU.
            packed: what to launch.
            stream: a CUstream as a number.
        """
        instance = packed.launch.instance
        kernel = self._kernel(instance.name, code.for_gpu(instance.name, self.capability))
        structure = ctypes.create_string_buffer(packed.arguments, len(packed.arguments))
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(structure))
        self._driver.call(
            "cuLaunchKernel",
            kernel,
            *(ctypes.c_uint(blocks) for blocks in packed.launch.grid),
            *(ctypes.c_uint(threads) for threads in (packed.launch.threads, 1, 1)),
            ctypes.c_uint(packed.launch.shared_bytes),
            ctypes.c_void_p(stream),
            parameters,  # the driver copies what they point to before it returns
            None,
        )

    def _kernel(self, name: str, image: bytes) -> ctypes.c_void_p:
        if image not in self._kernels:
            module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
            self._driver.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image))
            self._driver.call("cuModuleGetFunction", ctypes.byref(kernel), module, name.encode())
            self._kernels[image] = kernel
        return self._kernels[image]

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._driver.call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value


@cache
def driver() -> Driver:
    """The driver of this machine."""
    return Driver()
