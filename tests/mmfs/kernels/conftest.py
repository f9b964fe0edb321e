"""A device that runs the CUDA sources on the CPU: the kernels' own sources, without a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch

from emulated_device import SHARED_BYTES, EmulatedDevice


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
