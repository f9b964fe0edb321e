"""The driver's own functions; what they launch is in test_launches.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmfs.kernels.plan import Launch
from mmfs.kernels.source import Instance
from plugins_trt.driver import Driver, DriverError
from plugins_trt.launches import Address, PackedLaunch, instances_of, launches
from plugins_trt.machine_code import MachineCode
from plugins_trt.node_contract import Node

NODE = Node("MSDeformAttn", (4, 7, 3, 2))
INSTANCES = instances_of(NODE, 8, torch.float16)
INSTANCE, _ = INSTANCES
EMPTY = PackedLaunch(Launch(INSTANCE, (1, 1, 1), 128, 0), bytes(1000))


def test_a_machine_without_a_driver_is_told_so() -> None:
    with pytest.raises(DriverError, match=r"libno-such-cuda\.so cannot be loaded .* Expected an NVIDIA GPU and driver"):
        Driver("libno-such-cuda.so")


def test_the_driver_says_which_cuda_it_runs(make_gpu: Callable[[tuple[Instance, ...]], Any]) -> None:
    assert make_gpu(INSTANCES).driver.cuda_version() == (13, 1)


def test_the_gpu_is_that_of_the_current_context(make_gpu: Callable[[tuple[Instance, ...]], Any]) -> None:
    gpu = make_gpu(INSTANCES)
    gpu.stage(num_sms=7)
    found = gpu.driver.current_gpu()
    assert (found.num_sms, found.capability) == (7, (9, 0))
    assert gpu.driver.current_gpu() is found
    gpu.stage(has_context=False)
    with pytest.raises(DriverError, match="No CUDA context is current"):
        gpu.driver.current_gpu()


def test_what_the_driver_refuses_is_said_in_its_words(make_gpu: Callable[[tuple[Instance, ...]], Any]) -> None:
    gpu = make_gpu(INSTANCES)
    gpu.stage()
    current = gpu.driver.current_gpu()
    with pytest.raises(DriverError, match=r"cuModuleLoadData failed: device kernel image is invalid \(200\)"):
        current.launch(MachineCode({(INSTANCE.name, "sm_90"): b"broken"}), EMPTY, 0)
    other = PackedLaunch(Launch(Instance("other", torch.float16, ()), (1, 1, 1), 128, 0), b"")
    with pytest.raises(DriverError, match=r"cuModuleGetFunction failed: not found \(500\)"):
        current.launch(MachineCode({("mmfs_other_float16", "sm_90"): b"image"}), other, 0)


def test_a_kernel_is_loaded_once(make_gpu: Callable[[tuple[Instance, ...]], Any]) -> None:
    gpu = make_gpu(INSTANCES)
    value, locations = torch.ones(1, 34, 2, 8).half(), torch.full((1, 1, 2, 2, 1, 2), 0.5)
    weights, out = torch.full((1, 1, 2, 2, 1), 0.5), torch.zeros(1, 1, 16).half()
    gpu.stage([value, locations, weights], [out])
    inputs = [Address(tensor.data_ptr(), tensor.dtype) for tensor in (value, locations, weights)]
    shapes = [tuple(tensor.shape) for tensor in (value, locations, weights)]
    (packed,) = launches(NODE, shapes, inputs, Address(out.data_ptr(), out.dtype), 0, 1)
    code = MachineCode({(INSTANCE.name, "sm_90"): b"image"})
    for _ in range(2):
        out.zero_()
        gpu.driver.current_gpu().launch(code, packed, 5)
        assert torch.equal(out, torch.ones_like(out))
    assert gpu.events() == ["load image", "launch 1 2 1 on stream 5", "launch 1 2 1 on stream 5"]
