"""Options of `pytest bench/`: --smoke (everything once, tiny), --scale, --dtype, --device."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest
import torch

from bench.workloads import Scale


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mmfs benchmarks")
    group.addoption("--smoke", action="store_true", help="run each benchmark once, tiny and untimed")
    group.addoption("--scale", choices=("full", "cpu"), help="sizes (default: full on a GPU, cpu without)")
    group.addoption("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="type of the values")
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its option
def pytest_configure(config: pytest.Config) -> None:
    if config.option.smoke:
        config.option.benchmark_disable = True


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    return pytestconfig.option.device or ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config, device: str) -> Scale:
    if pytestconfig.option.smoke:
        return "smoke"
    default: Scale = "full" if device == "cuda" else "cpu"
    return pytestconfig.option.scale or default


@pytest.fixture(scope="session")
def dtype(pytestconfig: pytest.Config) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[pytestconfig.option.dtype]


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """The facts without which a time means nothing; the host's name is not one of them."""
    machine_info.pop("node", None)
    machine_info |= {
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "num_cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": platform.platform(),
    }
