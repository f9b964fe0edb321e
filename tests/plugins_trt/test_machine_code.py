from __future__ import annotations

import pytest
import torch

from mmfs.kernels.nvrtc import find_nvrtc
from plugins_trt.launches import instances_of
from plugins_trt.machine_code import ARCHITECTURES, MachineCode, compile_ahead
from plugins_trt.node_contract import Node

CODE = MachineCode(
    {
        ("k", "sm_80"): b"80",
        ("k", "sm_86"): b"86",
        ("k", "sm_90"): b"90",
        ("k", "compute_80"): b"ptx",
        ("other", "sm_100"): b"o",
    }
)


@pytest.mark.parametrize(
    ("capability", "image"),
    [((8, 0), b"80"), ((8, 6), b"86"), ((8, 9), b"86"), ((9, 0), b"90"), ((10, 0), b"ptx"), ((12, 1), b"ptx")],
)
def test_a_gpu_gets_the_newest_code_that_it_runs(capability: tuple[int, int], image: bytes) -> None:
    assert CODE.for_gpu("k", capability) == image


def test_a_gpu_that_nothing_was_compiled_for_is_told_so() -> None:
    with pytest.raises(
        ValueError, match=r"capability 7\.5, and k was compiled for compute_80, sm_80, sm_86, sm_90\. Build"
    ):
        CODE.for_gpu("k", (7, 5))
    with pytest.raises(ValueError, match=r"^The engine holds no kernel missing: another version of mmfs"):
        CODE.for_gpu("missing", (9, 0))


def test_packing_keeps_everything_and_notices_damage() -> None:
    packed = CODE.pack()
    assert MachineCode.unpack(packed) == CODE
    assert MachineCode.unpack(packed).sha256() == CODE.sha256()
    assert MachineCode({**CODE.images, ("k", "sm_80"): b"8O"}).sha256() != CODE.sha256()
    for damaged in (packed["k@sm_90"][:-3], b"", b"\0" * 30):
        with pytest.raises(ValueError, match=r"The kernel k for sm_90 is damaged .* Build the engine again"):
            MachineCode.unpack({**packed, "k@sm_90": damaged})


def test_the_kernels_of_a_node_are_compiled_without_a_gpu(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc): it compiles the kernels without a GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    instance, _ = instances_of(Node("MSDeformAttn", (2, 3)), 32, torch.float16)
    said: list[str] = []
    code = compile_ahead([instance], ("sm_90", "compute_80"), said.append)
    assert code.for_gpu(instance.name, (9, 0)).startswith(b"\x7fELF")
    ptx = code.for_gpu(instance.name, (12, 0)).decode()
    assert ".target sm_80" in ptx
    assert f".entry {instance.name}(" in ptx
    assert said == [f"kernel {instance.name} for {architecture}" for architecture in ("sm_90", "compute_80")]


def test_the_architectures_of_a_plan_are_those_that_are_promised() -> None:
    assert ARCHITECTURES == ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
