"""Every instance compiles for the GPUs we name, without a GPU, and the hot ones keep their numbers in registers."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mmfs.cuda import instances_for
from mmfs.kernels.nvrtc import OPTIONS, SONAMES, Nvrtc, NvrtcError, find_nvrtc
from mmfs.kernels.plan import Channels
from mmfs.kernels.source import Instance, source_of
from mmfs.kernels.value_gradient import value_gradient_instances

ARCHITECTURES = ("80", "90", "100")
# With the number of channels. 64 a head: the released models, and Deformable-DETR's 32 in float32.
HOT = (
    (Channels(torch.bfloat16, vector=8, lanes=8, chunks=1), 64),
    (Channels(torch.float16, vector=8, lanes=8, chunks=1), 64),
    (Channels(torch.float32, vector=4, lanes=16, chunks=1), 64),
    (Channels(torch.float32, vector=4, lanes=8, chunks=1), 32),
)
OTHERS = (
    (Channels(torch.float64, vector=2, lanes=32, chunks=1), 64),
    (Channels(torch.float64, vector=1, lanes=8, chunks=1), 5),
    (Channels(torch.float32, vector=2, lanes=32, chunks=2), 128),
    (Channels(torch.bfloat16, vector=4, lanes=8, chunks=1), 28),
    (Channels(torch.float16, vector=2, lanes=16, chunks=1), 30),
)


@pytest.fixture(scope="module", params=SONAMES, ids="CUDA {}".format)
def nvrtc(request: pytest.FixtureRequest) -> Nvrtc:
    library = find_nvrtc([request.param])
    if library is None:
        package = "nvidia-cuda-nvrtc" if request.param == 13 else f"nvidia-cuda-nvrtc-cu{request.param}"
        pytest.skip(f"NVRTC of CUDA {request.param} is not installed (pip install {package})")
    found = Nvrtc(library)
    assert found.version[0] == request.param
    return found


def resources(log: str, instances: Sequence[Instance]) -> dict[str, tuple[int, int]]:
    """By kernel: registers of a thread, and bytes that it spills to local memory. All shared memory is dynamic."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]
        registers = re.search(r"Used (\d+) registers", part)
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", part)
        assert registers is not None, part
        assert len(spills) == 2, part
        assert "smem" not in part, part
        found[name] = (int(registers[1]), sum(map(int, spills)))
    assert found.keys() == {instance.name for instance in instances}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "num_channels"), [*HOT, *OTHERS], ids=str)
def test_every_instance_compiles(
    nvrtc: Nvrtc, channels: Channels, num_channels: int, architecture: str, record_property: pytest.RecordProperty
) -> None:
    instances = instances_for(channels, num_channels)
    compiled = nvrtc.compile(source_of(instances), [*OPTIONS, f"--gpu-architecture=sm_{architecture}"])
    assert compiled.binary.startswith(b"\x7fELF")
    assert "warning" not in compiled.log
    found = resources(compiled.log, instances)
    for name, (registers, spilled_bytes) in found.items():
        record_property(f"sm_{architecture} {name}", f"{registers} registers, {spilled_bytes} bytes spilled")
        print(f"sm_{architecture} {name}: {registers} registers, {spilled_bytes} bytes spilled")
        registers_of_a_processor = 65536
        threads = next(instance.most_threads for instance in instances if instance.name == name)
        assert registers * threads <= registers_of_a_processor
    if (channels, num_channels) in HOT:
        assert {name for name, (_, spilled_bytes) in found.items() if spilled_bytes} == set()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ptx_names_its_architecture_and_entry_point(nvrtc: Nvrtc, architecture: str) -> None:
    (instance, *_) = instances_for(*HOT[0])
    options = [*OPTIONS, f"--gpu-architecture=compute_{architecture}"]
    ptx = nvrtc.compile(source_of([instance]), options, ptx=True).binary.decode()
    assert f".target sm_{architecture}" in ptx
    assert f".entry {instance.name}(" in ptx


def test_values_are_added_four_at_a_time_where_the_gpu_can(nvrtc: Nvrtc) -> None:
    instance = HOT[0][0].instance("ms_deform_attn_backward")
    counts = {}
    for architecture in ("80", "90"):
        options = [*OPTIONS, f"--gpu-architecture=compute_{architecture}"]
        ptx = nvrtc.compile(source_of([instance]), options, ptx=True).binary.decode()
        counts[architecture] = ptx.count("red.global.add.v4.f32")
    assert counts == {"80": 0, "90": counts["90"]}
    assert counts["90"] > 0


def test_tensor_cores_multiply(nvrtc: Nvrtc) -> None:
    for dtype, name in ((torch.bfloat16, "bf16.bf16"), (torch.float16, "f16.f16")):
        (instance,) = [it for it in value_gradient_instances(dtype, 64) if it.kernel == "dense_gradient"]
        options = [*OPTIONS, "--gpu-architecture=compute_80"]
        ptx = nvrtc.compile(source_of([instance]), options, ptx=True).binary.decode()
        assert f"mma.sync.aligned.m16n8k16.row.col.f32.{name}.f32" in ptx


def test_an_error_carries_the_compilers_log(nvrtc: Nvrtc) -> None:
    with pytest.raises(NvrtcError, match='identifier "nonsense" is undefined'):
        nvrtc.compile("__global__ void kernel() { nonsense; }", OPTIONS)


def _no_library(name: str) -> None:
    raise OSError(name)


@pytest.mark.parametrize(("cuda", "expected"), [("12.8", [12, 13]), ("13.0", [13, 12]), (None, [13, 12])])
def test_the_version_of_pytorch_comes_first(
    cuda: str | None, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both packages lie beside each other; a driver for CUDA 12 need not read what CUDA 13 compiles."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr("ctypes.CDLL", _no_library)  # nor does the system have one
    for version, name in ((12, "cuda_nvrtc"), (13, "cu13")):
        library = tmp_path / "nvidia" / name / "lib" / SONAMES[version]
        library.parent.mkdir(parents=True)
        library.touch()
    for version in expected:
        library = find_nvrtc()
        assert isinstance(library, Path)
        assert library.name == SONAMES[version]
        library.unlink()
