"""Options of `pytest bench/`: --smoke (everything once, tiny), --scale, --dtype, --device, --threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
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
    group.addoption(
        "--threads",
        type=thread_counts,
        help="counts of CPU threads, as 1,2: everything with each (default: PyTorch's). Compare them by wall time, "
        "which is what is measured without --benchmark-timer",
    )


def thread_counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise ValueError(f"--threads is {text}. Expected counts of at least 1, separated by commas.")
    return counts


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "num_threads" in metafunc.fixturenames:
        counts = metafunc.config.option.threads or [torch.get_num_threads()]
        ids = [f"{count}-threads" for count in counts]
        metafunc.parametrize("num_threads", counts, ids=ids, indirect=True)


@pytest.fixture
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads as the benchmark is for; before and after it PyTorch has its own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """The facts without which a time means nothing; the host's name is not one of them."""
    machine_info.pop("node", None)
    machine_info |= {
        "torch": torch.__version__,
        "num_cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": platform.platform(),
    }
