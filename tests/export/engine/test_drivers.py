"""Which driver a kernel needs, by NVIDIA's tables."""

from pathlib import Path

import pytest

from export.engine.drivers import Cuda, driver_branch, least_for_machine_code, least_for_ptx, newest_ptx


@pytest.mark.parametrize(
    ("cuda", "machine_code", "ptx"),
    [((12, 0), 525, 525), ((12, 9), 525, 575), ((13, 0), 580, 580), ((13, 1), 580, 590), ((13, 4), 580, 615)],
)
def test_ptx_asks_for_the_branch_of_its_minor_version(cuda: Cuda, machine_code: int, ptx: int) -> None:
    assert (least_for_machine_code(cuda), least_for_ptx(cuda)) == (machine_code, ptx)


def test_a_version_that_nobody_knows_needs_at_least_what_the_last_known_one_does() -> None:
    assert (least_for_machine_code((13, 99)), least_for_ptx((13, 99))) == (580, 615)
    assert least_for_ptx((12, 99)) == 575, "not that of CUDA 13"


@pytest.mark.parametrize(
    ("branch", "cuda"),
    [(524, None), (525, (12, 0)), (579, (12, 9)), (580, (13, 0)), (585, (13, 0)), (590, (13, 1)), (700, (13, 4))],
)
def test_what_a_driver_reads(branch: int, cuda: Cuda | None) -> None:
    assert newest_ptx(branch) == cuda


@pytest.mark.parametrize(
    ("line", "branch"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26", 570),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build", 580),
        ("nothing known", None),
    ],
)
def test_the_drivers_branch(tmp_path: Path, line: str, branch: int | None) -> None:
    (tmp_path / "version").write_text(line)
    assert driver_branch(tmp_path / "version") == branch
    assert driver_branch(tmp_path / "missing") is None
