"""Options of `pytest bench/`: --smoke (everything once, tiny), --scale, --dtype, --locations, --device, --threads."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

import pytest
import torch

from bench.workloads import Locations, Scale


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mmfs benchmarks")
    group.addoption("--smoke", action="store_true", help="run each benchmark once, tiny and untimed")
    group.addoption("--scale", choices=("full", "cpu"), help="sizes (default: full on a GPU, cpu without)")
    group.addoption("--dtype", type=dtypes, default="float32", help="types of the values, as bfloat16,float32")
    group.addoption(
        "--locations",
        type=distributions,
        default="trained",
        help="where samples lie: trained (around their points), uniform, concentrated (at one), with commas",
    )
    group.addoption("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    group.addoption(
        "--threads",
        type=thread_counts,
        help="counts of CPU threads, as 1,2: everything with each (default: PyTorch's). Compare them by wall time, "
        "which is what is measured without --benchmark-timer",
    )


def dtypes(text: str) -> list[torch.dtype]:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if not set(text.split(",")) <= known.keys():
        raise ArgumentTypeError(f"--dtype is {text}. Expected some of {', '.join(known)}, separated by commas.")
    return [known[part] for part in text.split(",")]


def distributions(text: str) -> list[str]:
    if not set(text.split(",")) <= set(get_args(Locations)):
        raise ArgumentTypeError(
            f"--locations is {text}. Expected some of {', '.join(get_args(Locations))}, with commas."
        )
    return text.split(",")


def thread_counts(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= 1 for part in parts):
        raise ArgumentTypeError(f"--threads is {text}. Expected counts of at least 1, separated by commas.")
    return [int(part) for part in parts]


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its option
def pytest_configure(config: pytest.Config) -> None:
    if config.option.smoke:
        config.option.benchmark_disable = True


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    return pytestconfig.option.device or ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config, device: str) -> Scale:
    if pytestconfig.option.smoke:
        return "smoke"
    default: Scale = "full" if device == "cuda" else "cpu"
    return pytestconfig.option.scale or default


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "num_threads" in metafunc.fixturenames:
        counts = metafunc.config.option.threads or [torch.get_num_threads()]
        ids = [f"{count}-threads" for count in counts]
        metafunc.parametrize("num_threads", counts, ids=ids, indirect=True)
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", metafunc.config.option.dtype, ids=lambda dtype: str(dtype).removeprefix("torch."))
    if "locations" in metafunc.fixturenames:
        metafunc.parametrize("locations", metafunc.config.option.locations)


@pytest.fixture
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads as the benchmark is for; before and after it PyTorch has its own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def installed_peers() -> dict[str, str]:
    """Version of each package that is compared with."""
    found = {}
    for name in ("transformers", "deformops"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """The hardware and versions that a time belongs to, without the host's name."""
    machine_info.pop("node", None)
    machine_info |= {
        "command": shlex.join(["pytest", *sys.argv[1:]]),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "peers": installed_peers(),
        "num_cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": platform.platform(),
    }
