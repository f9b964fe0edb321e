"""Both ops on an NVIDIA GPU: what mmfs.autograd calls for CUDA tensors.

The functions are those of embedding_bag.py, and one more, mmfs_attention_with_lse. CuPy is imported at the first
launch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
)
from mmfs.kernels import calls
from mmfs.kernels.arguments import KINDS
from mmfs.kernels.launch import CudaDevice, cuda_device, why_not_launch
from mmfs.kernels.plan import Channels, share_channels
from mmfs.kernels.source import Instance
from mmfs.kernels.value_gradient import value_gradient_instances

ROW_KERNELS = (
    "ms_deform_attn_forward",
    "add_splits",
    "ms_deform_attn_backward",
    "mmfs_attention_forward",
    "merge_splits",
    "mmfs_attention_backward",
)


def why_not(value: Tensor) -> str | None:
    """Why the CUDA kernels cannot take this value; None if they can."""
    if not value.is_cuda:
        return f"value is on {value.device}"
    if torch.version.hip is not None:  # whose devices are called cuda too
        return "this PyTorch is one for ROCm, and the CUDA kernels need an NVIDIA GPU"
    if value.dtype not in KINDS:
        return f"value is {value.dtype}, and the CUDA kernels take {', '.join(map(str, KINDS))}"
    return why_not_launch(device_index(value.device))


def warmup(
    num_channels: int, dtype: torch.dtype = torch.bfloat16, device: torch.device | str | int = "cuda"
) -> list[str]:
    """Compiles and loads the kernels for heads of this many channels, so that the first call does not wait for it.

    Args:
        num_channels: D of value [..., H, D].
        dtype: of value.
        device: a CUDA device.

    Returns:
        The names of the kernels.

    Raises:
        ValueError: this device cannot run them.
    """
    chosen = torch.device(device) if not isinstance(device, int) else torch.device("cuda", device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is {chosen}, but PyTorch sees no CUDA device here. Leave warmup out, or install PyTorch with CUDA."
        )
    sample = torch.empty(1, num_channels, dtype=dtype, device=chosen)
    if (reason := why_not(sample)) is not None:
        raise ValueError(f"mmfs's CUDA kernels cannot be compiled: {reason}.")
    instances = instances_for(share_channels(num_channels, sample), num_channels)
    _device(sample).warm_up(instances)
    return [instance.name for instance in instances]


def instances_for(channels: Channels, num_channels: int) -> list[Instance]:
    """Every kernel that calls with these channels can launch."""
    rows = [channels.instance(kernel) for kernel in ROW_KERNELS]
    return rows + value_gradient_instances(channels.dtype, num_channels)


def ms_deform_attn_forward(arguments: MSDeformAttnArguments) -> Tensor:
    return calls.ms_deform_attn_forward(_device(arguments.value), arguments)


def ms_deform_attn_backward(
    grad_out: Tensor, arguments: MSDeformAttnArguments, needs_value: bool
) -> MSDeformAttnGradients:
    """Two calls give the same bits under `torch.use_deterministic_algorithms(True)`."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return calls.ms_deform_attn_backward(_device(arguments.value), grad_out, arguments, needs_value, deterministic)


def mmfs_attention_forward(arguments: MMFSAttentionArguments) -> Tensor:
    out, _ = mmfs_attention_with_lse(arguments)
    return out


def mmfs_attention_with_lse(arguments: MMFSAttentionArguments) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp [B, Q, H] of each softmax, for the backward."""
    return calls.mmfs_attention_forward(_device(arguments.value), arguments)


def mmfs_attention_backward(
    grad_out: Tensor, arguments: MMFSAttentionArguments, needs_value: bool, lse: Tensor | None = None
) -> MMFSAttentionGradients:
    """Two calls give the same bits under `torch.use_deterministic_algorithms(True)`.

    lse: of `mmfs_attention_with_lse`; None: computed again.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    return calls.mmfs_attention_backward(_device(arguments.value), grad_out, arguments, needs_value, lse, deterministic)


def _device(tensor: Tensor) -> CudaDevice:
    return cuda_device(device_index(tensor.device))


def device_index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
