"""A device that computes, for which mmfs has no kernel: PyTorch's operators on it are those of the CPU.

`python other_device.py` registers it in this process for good, calls both ops and both layers on it, forward and
backward, and compares them with the CPU. As on a GPU, an operator refuses tensors of several devices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import mmfs
from numerics import assert_within_error_budget
from op_cases import NOT_SQUARE, Case, image_lists_case, mmfs_attention_case, ms_deform_attn_case

NAME = "other"
METADATA = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)
"""Kernels that make or change sizes and strides, of any tensor."""


_memory: dict[int, torch.UntypedStorage] = {}
"""On the CPU, of each storage of the device by its address. Both stay, so that an address is never another's."""
_wholes: dict[tuple[int, torch.dtype], Tensor] = {}
"""The tensor of the device that is a whole storage, by the address of its memory and its type."""


def on_device(data: Tensor) -> Tensor:
    """A tensor of the device with the numbers of one on the CPU, in whose memory they stay: views stay views."""
    memory = data.untyped_storage()
    key = memory._cdata, data.dtype
    if key not in _wholes or _wholes[key].numel() != memory.nbytes() // data.itemsize:  # it was resized
        _wholes[key] = torch._C._acc.create_empty_tensor([memory.nbytes() // data.itemsize], data.dtype)
        _memory[_wholes[key].untyped_storage()._cdata] = memory
    view: Tensor = torch.ops.aten.as_strided.default.redispatch(
        METADATA, _wholes[key], data.shape, data.stride(), data.storage_offset()
    )
    return view


def compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Every operator that PyTorch does not make of others: on the CPU."""
    flat, tree = tree_flatten((args, kwargs))
    tensors = [one for one in flat if isinstance(one, Tensor)]
    if op is torch.ops.aten._copy_from.default:
        source, to = args[:2]
        cpu_of(to).copy_(cpu_of(source))
        return to
    if len({one.device for one in tensors if one.ndim or one.device.type == NAME}) > 1:
        raise RuntimeError(f"{op} got tensors on {sorted({str(one.device) for one in tensors})}. Expected one device.")
    on_cpu = [cpu_of(one) for one in flat]
    own = {id(data): one for data, one in zip(on_cpu, flat, strict=True) if isinstance(one, Tensor)}
    given, named = tree_unflatten(on_cpu, tree)
    # A number that C++ had made a tensor comes as a number.
    given = [
        torch.tensor(one, dtype=torch.float64 if isinstance(one, float) else None)
        if isinstance(argument.type, torch.TensorType) and isinstance(one, int | float)
        else one
        for argument, one in zip(op._schema.arguments, given, strict=False)
    ]

    def on_its_device(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        if id(one) not in own:
            return on_device(one)
        if own[id(one)].shape != one.shape:  # what `out=` names gets its size
            new = on_device(one)
            torch.ops.aten.set_.source_Storage_storage_offset.redispatch(
                METADATA, own[id(one)], new.untyped_storage(), new.storage_offset(), new.shape, new.stride()
            )
        return own[id(one)]

    return tree_map(on_its_device, op(*given, **named))


def cpu_of(one: Any) -> Any:
    """A tensor of the device, or the device, as the CPU has it; anything else as it is."""
    if isinstance(one, Tensor) and one.device.type == NAME:
        memory = _memory[one.untyped_storage()._cdata]
        return torch.empty(0, dtype=one.dtype).set_(memory, one.storage_offset(), one.shape, one.stride())
    return torch.device("cpu") if isinstance(one, torch.device) else one


def register() -> torch.library.Library:
    """From here on, and as long as what is returned lives, the device computes."""
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(compute, "PrivateUse1")
    return library


def moved(case: Case, dtype: torch.dtype, device: str) -> Case:
    """The case with tensors of a type, on a device."""
    rest = {name: part.to(device) if isinstance(part, Tensor) else part for name, part in case.rest.items()}
    return Case({name: part.to(dtype).to(device) for name, part in case.tensors.items()}, rest)


def of_layer(layer: nn.Module, inputs: dict[str, Tensor], device: str, **more: Any) -> dict[str, Tensor]:
    """Output of a layer on a device, and the gradients of its inputs and parameters."""
    on = copy.deepcopy(layer).to(device)
    leaves = {name: tensor.detach().to(device) for name, tensor in inputs.items()}
    given = [leaf.requires_grad_() for leaf in leaves.values() if leaf.is_floating_point()]
    out = on(**leaves, **more)
    weighting = torch.linspace(-1, 2, out.numel()).view_as(out).to(device)
    parameters = dict(on.named_parameters())
    gradients = torch.autograd.grad(out, [*given, *parameters.values()], weighting)
    names = [name for name, leaf in leaves.items() if leaf.requires_grad]
    return {"output": out.detach(), **dict(zip([*names, *parameters], gradients, strict=True))}


def assert_same(name: str, found: dict[str, Tensor], baseline: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """On the device, and as exact as on the CPU."""
    assert found.keys() == baseline.keys()
    for part, tensor in found.items():
        assert tensor.device == torch.device(NAME, 0), (name, part)
        assert_within_error_budget(tensor.cpu(), baseline=baseline[part], exact=exact[part])
    print(f"{name}: output and {len(found) - 1} gradients")


OPS: dict[str, tuple[Callable[..., Tensor], Case]] = {
    "ms_deform_attn": (mmfs.ms_deform_attn, ms_deform_attn_case()),
    "mmfs_attention": (mmfs.mmfs_attention, mmfs_attention_case()),
    "mmfs_attention, plain softmax": (
        mmfs.mmfs_attention,
        mmfs_attention_case(tables=False, null_value=False, null_logit=None),
    ),
    "mmfs_attention, lists of images": (
        mmfs.mmfs_attention,
        image_lists_case(points_by_sample=True, points_by_level=True, offsets_by_level=True),
    ),
}


def check_ops() -> None:
    for name, (op, case) in OPS.items():
        for dtype in (torch.float32, torch.bfloat16):
            on_cpu, on_other = moved(case, dtype, "cpu"), moved(case, dtype, NAME)
            exact = moved(on_cpu, torch.float64, "cpu").run(op, torch.float64, backend="reference")
            baseline = on_cpu.run(op, dtype, backend="reference")
            for backend in (None, "reference"):
                found = on_other.run(op, dtype, backend=backend)
                assert_same(f"{name}, {dtype}, backend={backend}", found, baseline, exact)


def check_layers() -> None:
    torch.manual_seed(0)
    num_pixels = sum(h * w for h, w in NOT_SQUARE)
    layers = {
        "MMFS": (
            mmfs.MMFS(8, 8, spatial_shapes=NOT_SQUARE, num_heads=2, num_points=3, max_age=2),
            {
                "query": torch.randn(2, 4, 8),
                "reference_points": torch.rand(2, 4, 2),
                "visible": torch.tensor([[0, 3], [1, 2]])[:, None].repeat(1, 4, 1),
                "features": torch.randn(3, num_pixels, 8),
            },
            {},
        ),
        "MSDeformAttn": (
            mmfs.MSDeformAttn(8, n_levels=2, n_heads=2, n_points=3),
            {
                "query": torch.randn(2, 4, 8),
                "reference_points": torch.rand(2, 4, 2, 2),
                "input_flatten": torch.randn(2, num_pixels, 8),
            },
            {"input_spatial_shapes": NOT_SQUARE},
        ),
    }
    for name, (layer, inputs, more) in layers.items():
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.5)
        wide = {key: part.double() if part.is_floating_point() else part for key, part in inputs.items()}
        exact = of_layer(copy.deepcopy(layer).double(), wide, "cpu", **more)
        assert_same(name, of_layer(layer, inputs, NAME, **more), of_layer(layer, inputs, "cpu", **more), exact)


def check_sentences() -> None:
    value = torch.zeros(1, 34, 2, 3, device=NAME)
    assert mmfs.why_not_compiled(value) == mmfs.why_not_cuda(value) == f"value is on {NAME}:0"
    case = moved(ms_deform_attn_case(), torch.float32, NAME)
    for backend in ("cpu", "cuda"):
        with pytest.raises(ValueError, match=f"value is on {NAME}:0"):
            case.run(mmfs.ms_deform_attn, torch.float32, backend=backend)
    case.tensors["attention_weights"] = case.tensors["attention_weights"].cpu()
    with pytest.raises(ValueError, match="attention_weights is on cpu"):
        case.run(mmfs.ms_deform_attn, torch.float32)


if __name__ == "__main__":
    device = register()
    check_ops()
    check_layers()
    check_sentences()
