"""A call by addresses alone, from packing to the kernel's output, on the emulated driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from node_cases import FLAT, node_and_inputs, output_for, reference
from numerics import assert_within_error_budget
from plugins_trt.launches import MOST_SMS, Address, instances_of, launches, workspace_bytes
from plugins_trt.machine_code import MachineCode
from plugins_trt.node_contract import Node


def run(
    gpu: Any,
    node: Node,
    inputs: Sequence[Tensor],
    *,
    num_sms: int,
    more_workspace: int = 0,
    aligned: bool = True,
) -> tuple[Tensor, int]:
    """The output, and how many launches it took."""
    value = inputs[0]
    shapes = [tuple(tensor.shape) for tensor in inputs]
    out = output_for(node, inputs)
    workspace = torch.full((workspace_bytes(node, shapes, value.dtype) + more_workspace,), 0xFF, dtype=torch.uint8)
    gpu.stage(inputs, [out, workspace], num_sms=num_sms)
    code = MachineCode(
        {(i.name, "sm_90"): b"image of " + i.name.encode() for i in instances_of(node, value.shape[3], value.dtype)}
    )
    planned = launches(
        node,
        shapes,
        [Address(tensor.data_ptr(), tensor.dtype) for tensor in inputs],
        Address(out.data_ptr() + (not aligned) * 2, out.dtype),
        workspace.data_ptr(),
        num_sms,
    )
    for packed in planned:
        gpu.driver.current_gpu().launch(code, packed, stream=77)
    return out, len(planned)


@pytest.mark.parametrize("operator", ["MMFS", "MMFSImageLists"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_mmfs_whole_and_in_parts(make_gpu: Callable[..., Any], dtype: torch.dtype, operator: str) -> None:
    node, inputs = node_and_inputs(operator, dtype, dim=8)
    baseline, exact = reference(node, inputs, dtype), reference(node, inputs, torch.float64)
    gpu = make_gpu(instances_of(node, 8, dtype))
    whole, num_launches = run(gpu, node, inputs, num_sms=1)
    assert num_launches == 1
    assert_within_error_budget(whole, baseline=baseline, exact=exact)
    in_parts, num_launches = run(gpu, node, inputs, num_sms=24)
    assert num_launches == 2
    assert gpu.events()[-1] == "launch 1 2 1 on stream 77"
    assert_within_error_budget(in_parts, baseline=baseline, exact=exact)


@pytest.mark.parametrize("null_logit", [None, -0.5])
def test_mmfs_without_null_and_without_images(make_gpu: Callable[..., Any], null_logit: float | None) -> None:
    for num_images in (0, 6):
        node, inputs = node_and_inputs("MMFS", torch.float32, dim=8, null_logit=null_logit, num_images=num_images)
        gpu = make_gpu(instances_of(node, 8, torch.float32))
        out, _ = run(gpu, node, inputs, num_sms=8)
        torch.testing.assert_close(out, reference(node, inputs, torch.float32))


def test_ms_deform_attn_whole_and_in_splits(make_gpu: Callable[..., Any]) -> None:
    for num_points, num_launches in ((3, 1), (36, 2)):  # 72 samples: nine batches of eight lanes, four for a part
        node, inputs = node_and_inputs("MSDeformAttn", torch.float16, dim=8, num_points=num_points)
        gpu = make_gpu(instances_of(node, 8, torch.float16))
        out, launched = run(gpu, node, inputs, num_sms=132)
        assert launched == num_launches
        exact = reference(node, inputs, torch.float64)
        assert_within_error_budget(out, baseline=reference(node, inputs, torch.float16), exact=exact)


def test_nothing_is_launched_for_nothing(make_gpu: Callable[..., Any]) -> None:
    node, inputs = node_and_inputs("MMFS", torch.float32, dim=8, num_queries=0)
    gpu = make_gpu(instances_of(node, 8, torch.float32))
    assert run(gpu, node, inputs, num_sms=8)[1] == 0
    assert gpu.events() == []


def test_an_address_that_vectors_cannot_load_from_is_refused() -> None:
    node, inputs = node_and_inputs("MMFS", torch.float32, dim=8)
    addresses = [Address(256, tensor.dtype) for tensor in inputs]
    shapes = [tuple(tensor.shape) for tensor in inputs]
    for value, out, name in ((264, 256, "value"), (256, 260, "output")):
        addresses[0] = Address(value, torch.float32)
        with pytest.raises(ValueError, match=rf"{name} of MMFS is at address 0x10[48]\. Expected a multiple of 16"):
            launches(node, shapes, addresses, Address(out, torch.float32), 0, 1)


@pytest.mark.parametrize("operator", ["MMFS", "MSDeformAttn"])
def test_the_workspace_suffices_for_every_smaller_call_on_every_gpu(operator: str) -> None:
    node = Node(operator, FLAT)

    def shapes(batch: int, num_queries: int, num_images: int) -> list[tuple[int, ...]]:
        rows = (batch, num_queries)
        if operator == "MSDeformAttn":
            return [(batch, 34, 4, 64), (*rows, 4, 2, 64, 2), (*rows, 4, 2, 64)]
        return [
            (num_images, 34, 4, 64),
            (*rows, 2),
            (*rows, 4, 8, 2),
            (*rows, 4, 2, 8),
            (*rows, 2),
            (1, 4, 8, 2),
            (1, 4, 2, 8),
            (4, 64),
        ]

    for most_queries in (1, 3, 600):
        scratch = workspace_bytes(node, shapes(2, most_queries, 8), torch.float16)
        largest = 0
        for num_queries in sorted({1, min(2, most_queries), min(17, most_queries), most_queries}):
            for num_sms in (1, 16, 132, 255, 256, 1000):
                given = shapes(2, num_queries, 8)
                inputs = [Address(256, torch.int64 if i == 4 else torch.float16) for i in range(len(given))]
                planned = launches(node, given, inputs, Address(256, torch.float16), 0, num_sms)
                splits = planned[0].launch.grid[2]
                softmaxes = 2 if operator == "MMFS" else 0
                used = splits * 2 * num_queries * 4 * (64 + softmaxes) * 4 if splits > 1 else 0
                assert used <= scratch, (most_queries, num_queries, num_sms)
                largest = max(largest, used)
        assert largest > 0, "some of these calls are split"
    assert MOST_SMS == 256


def test_a_ms_deform_attn_call_of_few_samples_needs_no_workspace() -> None:
    shapes = [(2, 34, 4, 64), (2, 9, 4, 2, 8, 2), (2, 9, 4, 2, 8)]
    assert workspace_bytes(Node("MSDeformAttn", FLAT), shapes, torch.float16) == 0
