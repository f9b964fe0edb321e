"""An emulated GPU for the tests of plugins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulated_driver import EmulatedGpu, gpu_maker
from mmfs.kernels.source import Instance


@pytest.fixture(scope="session")
def make_gpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[Instance, ...]], EmulatedGpu]:
    """Compiles an emulated GPU that knows these kernels."""
    return gpu_maker(tmp_path_factory.mktemp("driver"))
