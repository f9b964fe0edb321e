"""Hosts without Python (mmfs/kernels/cuda_*.cpp, the C++ plugin): they plan, pack, unpack and launch as the Python
plugin does, byte by byte."""

from __future__ import annotations

import ctypes
import random
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from node_cases import node_and_inputs, output_for, reference
from plugin_library import TYPES, call_of, compile_plugin
from plugins_trt.launches import Address, instances_of, launches, workspace_bytes
from plugins_trt.machine_code import MachineCode
from plugins_trt.node_contract import INPUTS, Node, takes_type


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Calls a function of csrc_interface.cpp and returns its text."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: it compiles the C++ plugin")
    return compile_plugin(tmp_path_factory.mktemp("csrc") / "libcsrc.so")


def random_call(rng: random.Random) -> tuple[Node, list[tuple[int, ...]], list[Address]]:
    """A node with inputs of any size, most of them small; none is real memory."""
    num_levels, num_points = rng.choice([1, 2, 3, 16]), rng.choice([1, 4, 8, 64])
    levels = tuple(rng.randint(1, 40) for _ in range(2 * num_levels))
    num_pixels = sum(h * w for h, w in zip(levels[::2], levels[1::2], strict=True))
    batch, num_queries, num_images = rng.choice([0, 1, 2, 5]), rng.choice([1, 7, 64, 5000]), rng.choice([0, 1, 3, 9])
    num_heads, num_channels = rng.choice([1, 2, 8]), rng.choice([1, 6, 8, 20, 32, 64, 80, 100, 128, 512])
    rows, samples = (batch, num_queries), (num_levels, num_points)
    offset_ages, logit_ages = rng.randint(1, 4), rng.randint(1, 4)
    value_type = rng.choice([torch.float32, torch.float16, torch.bfloat16])
    kind = rng.random()
    if kind < 0.3:
        node = Node("MMFSImageLists", levels, rng.choice([None, 0.0, -1.25]))
        slots, offset_levels = rng.choice([1, 2, 6]), rng.choice([1, num_levels])
        point = (rng.choice([1, num_levels]), rng.choice([1, num_points]), 2)
        shapes: list[tuple[int, ...]] = [
            (num_images, num_pixels, num_heads, num_channels),
            (*rows, slots, *point),
            (*rows, num_heads, offset_levels, num_points, 2),
            (*rows, num_heads, *samples),
            (*rows, slots),
            (offset_ages, num_heads, offset_levels, num_points, 2),
            (logit_ages, num_heads, *samples),
            (num_heads, num_channels),
        ]
    elif kind < 0.7:
        node = Node("MMFS", levels, rng.choice([None, 0.0, -1.25]))
        shapes = [
            (num_images, num_pixels, num_heads, num_channels),
            (*rows, 2),
            (*rows, num_heads, num_points, 2),
            (*rows, num_heads, *samples),
            (*rows, 2),
            (offset_ages, num_heads, num_points, 2),
            (logit_ages, num_heads, *samples),
            (num_heads, num_channels),
        ]
    else:
        node = Node("MSDeformAttn", levels)
        shapes = [
            (batch, num_pixels, num_heads, num_channels),
            (*rows, num_heads, *samples, 2),
            (*rows, num_heads, *samples),
        ]
    kinds = [rng.choice([torch.float32, torch.float16, torch.bfloat16]) for _ in shapes]
    kinds[0] = value_type
    if node.operator == "MMFS":
        kinds[4] = torch.int64
    return node, shapes, [Address(rng.randrange(1, 2**44) * 16, kind) for kind in kinds]


def test_launches_and_workspaces_are_those_of_python(library: Callable[..., str]) -> None:
    rng = random.Random(5)
    num_split = num_empty = 0
    for _ in range(400):
        node, shapes, inputs = random_call(rng)
        num_sms, workspace = rng.choice([1, 24, 132, 256, 400]), rng.randrange(1, 2**44)
        output = Address(rng.randrange(1, 2**44) * 16, inputs[0].dtype)
        planned = launches(node, shapes, inputs, output, workspace, num_sms)
        call = call_of(node, shapes, inputs, output.pointer, workspace, num_sms)
        lines = [
            " ".join(
                (
                    packed.launch.instance.name,
                    *map(str, (*packed.launch.grid, packed.launch.threads, packed.launch.shared_bytes)),
                    packed.arguments.hex(),
                )
            )
            for packed in planned
        ]
        assert library("mmfs_launches", ctypes.byref(call)).splitlines() == lines, (node, shapes, num_sms)
        names = [instance.name for instance in instances_of(node, shapes[0][3], inputs[0].dtype)]
        needs = " ".join((str(workspace_bytes(node, shapes, inputs[0].dtype)), *names))
        assert library("mmfs_needs", ctypes.byref(call)) == needs
        num_split += len(planned) == 2
        num_empty += not planned
    assert num_split > 20
    assert num_empty > 20


@pytest.mark.parametrize("batch", [1, 2])
def test_more_queries_than_can_be_counted_are_refused_as_in_python(library: Callable[..., str], batch: int) -> None:
    """A call without heads launches nothing, however many queries it has; their number has to fit."""
    queries = 2**63 - 1
    shapes = [(batch, 34, 0, 8), (batch, queries, 0, 2, 4, 2), (batch, queries, 0, 2, 4)]
    node, inputs = Node("MSDeformAttn", (4, 7, 3, 2)), [Address(256, torch.float32)] * 3
    answer = library("mmfs_launches", ctypes.byref(call_of(node, shapes, inputs, 256)))
    if batch == 1:
        assert answer == ""
        assert launches(node, shapes, inputs, inputs[0], 0, 1) == []
    else:
        with pytest.raises(ValueError, match="a call has 2 times 9223372036854775807 queries") as error:
            launches(node, shapes, inputs, inputs[0], 0, 1)
        assert answer == f"error: {error.value}"


def test_types_are_taken_as_in_python(library: Callable[..., str]) -> None:
    rng = random.Random(1)
    taken = 0
    for _ in range(500):
        operator = rng.choice(list(INPUTS))
        types = [rng.choice(list(TYPES)) for _ in range(rng.randint(1, len(INPUTS[operator]) + 1))]
        numbers = (ctypes.c_int64 * len(types))(*(TYPES[dtype] for dtype in types))
        takes = takes_type(operator, len(types) - 1, types)
        taken += takes
        answer = library("mmfs_takes_type", list(INPUTS).index(operator), len(types) - 1, numbers)
        assert answer == ("yes" if takes else "no")
    assert 100 < taken < 400


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({1: (2, 9, 2, 2, 4, 2)}, "sampling_locations of MSDeformAttn has the shape [2, 9, 2, 2, 4, 2]. "),
        ({0: (2, 35, 2, 8)}, "value of MSDeformAttn has the shape [2, 35, 2, 8]. Expected [2, 34, 2, 8]."),
        ({0: (3, 34, 2, 8)}, "value of MSDeformAttn has the shape [3, 34, 2, 8]. Expected [2, 34, 2, 8]."),
        ({2: (2, 5, 2, 4)}, "[2, 5, 2, 4]. Expected 4 and 5 axes."),
        ({0: (2, 34, 70000, 8), 1: (2, 5, 70000, 2, 4, 2), 2: (2, 5, 70000, 2, 4)}, "value has 70000 heads. "),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    library: Callable[..., str], change: dict[int, tuple[int, ...]], sentence: str
) -> None:
    shapes: list[tuple[int, ...]] = [(2, 34, 2, 8), (2, 5, 2, 2, 4, 2), (2, 5, 2, 2, 4)]
    shapes = [change.get(i, shape) for i, shape in enumerate(shapes)]
    call = call_of(Node("MSDeformAttn", (4, 7, 3, 2)), shapes, [Address(256, torch.float32)] * 3, 256)
    answer = library("mmfs_launches", ctypes.byref(call))
    assert answer.startswith("error: ")
    assert sentence in answer


def test_an_address_that_vectors_cannot_load_from_is_refused(library: Callable[..., str]) -> None:
    shapes = [(2, 34, 2, 8), (2, 5, 2, 2, 4, 2), (2, 5, 2, 2, 4)]
    call = call_of(Node("MSDeformAttn", (4, 7, 3, 2)), shapes, [Address(256, torch.float32)] * 3, 264)
    answer = library("mmfs_launches", ctypes.byref(call))
    assert answer == "error: output of MSDeformAttn is at address 264. Expected a multiple of 16."


def add_images(library: Callable[..., str], packed: dict[str, bytes]) -> list[str]:
    return [library("mmfs_add_image", name.encode(), data, ctypes.c_int64(len(data))) for name, data in packed.items()]


def test_a_gpu_gets_the_image_that_python_would_pick(library: Callable[..., str]) -> None:
    architectures = ("compute_80", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
    images = {("k", architecture): architecture.encode() * 20_000 for architecture in architectures}
    code = MachineCode({**images, ("other", "sm_75"): b"other"})
    library("mmfs_open", b"libc.so.6")
    assert add_images(library, code.pack()) == [image.decode() for image in code.images.values()]
    for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1), (13, 0)):
        image = code.for_gpu("k", capability)
        assert library("mmfs_for_gpu", b"k", *capability) == image.decode()[: len(image) // 20_000]
    answer = library("mmfs_for_gpu", b"other", 7, 0)
    assert answer == (
        "error: The GPU has compute capability 7.0, and other was compiled for sm_75. Build the engine again for this "
        "GPU."
    )
    assert library("mmfs_for_gpu", b"missing", 9, 0) == (
        "error: The engine holds no kernel missing: another version of mmfs built it. Build the engine again."
    )


def test_a_damaged_image_is_a_sentence(library: Callable[..., str]) -> None:
    library("mmfs_open", b"libc.so.6")
    whole = zlib.compress(bytes(range(256)) * 9)
    answers = add_images(library, {"k@sm_90": whole[:-3], "k@sm_80": b"", "k@sm_86": b"\0" * 30})
    assert answers == [
        f"error: The kernel k for sm_{number} is damaged. Build the engine again." for number in (90, 80, 86)
    ]


def test_a_machine_without_a_driver_is_told_so(library: Callable[..., str]) -> None:
    answer = library("mmfs_open", b"libno-such-cuda.so")
    assert answer.startswith("error: The CUDA driver libno-such-cuda.so cannot be loaded (libno-such-cuda.so: ")
    assert answer.endswith("Expected an NVIDIA GPU and driver.")


@pytest.mark.parametrize("operator", list(INPUTS))
def test_it_launches_what_computes_the_op(
    library: Callable[..., str], make_gpu: Callable[..., Any], operator: str
) -> None:
    node, inputs = node_and_inputs(operator, torch.float32, dim=8)
    shapes = [tuple(tensor.shape) for tensor in inputs]
    out = output_for(node, inputs)
    workspace = torch.full((workspace_bytes(node, shapes, torch.float32),), 0xFF, dtype=torch.uint8)

    instances = instances_of(node, 8, torch.float32)
    gpu = make_gpu(instances)
    assert library("mmfs_open", gpu.path.encode()) == ""
    add_images(library, MachineCode({(i.name, "sm_90"): f"image of {i.name}".encode() for i in instances}).pack())
    addresses = [Address(tensor.data_ptr(), tensor.dtype) for tensor in inputs]
    call = call_of(node, shapes, addresses, out.data_ptr(), workspace.data_ptr())
    expected = reference(node, inputs, torch.float32)
    for _ in range(2):
        out.fill_(torch.nan)
        gpu.stage(inputs, [out, workspace], num_sms=24)
        assert library("mmfs_run", ctypes.byref(call), ctypes.c_uint64(77)) == ""
        torch.testing.assert_close(out, expected)
    num_launches = 2 if node.is_mmfs_attention else 1
    assert [event.split()[0] for event in gpu.events()] == ["launch"] * num_launches, "kernels are loaded once"
    assert all(event.endswith("on stream 77") for event in gpu.events())

    gpu.stage(has_context=False)
    assert library("mmfs_run", ctypes.byref(call), ctypes.c_uint64(0)).startswith("error: No CUDA context is current.")
