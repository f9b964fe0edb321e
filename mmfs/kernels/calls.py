"""Both ops and their gradients as launches of the kernels, on a device that the caller gives: a GPU, or an emulation.

Nothing here waits for the device. Letters as in arguments.cuh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
    contiguous_and_aligned,
)
from mmfs.kernels.arguments import MAX_LEVELS, KernelArguments
from mmfs.kernels.plan import Launch, plan_rows, plan_splits, share_channels
from mmfs.kernels.value_gradient import plan_value_gradient
from mmfs.reference import accumulation_dtype, sizes_fit

FEWEST_MS_DEFORM_ATTN_BATCHES = 4
"""Of a split, in batches of samples. Rows of ms_deform_attn have few samples, and merging takes one more launch."""


class Device(Protocol):
    @property
    def num_sms(self) -> int:
        """Multiprocessors of the GPU."""

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory that a block can ask for."""

    def launch(self, launch: Launch, arguments: KernelArguments) -> None: ...


# ---------------------------------------------------------------------------------------------------------------------
# ms_deform_attn


def ms_deform_attn_forward(device: Device, arguments: MSDeformAttnArguments) -> Tensor:
    """`reference.ms_deform_attn_reference`, without a graph."""
    value = arguments.value
    batch, num_queries, num_heads = arguments.attention_weights.shape[:3]
    members = _ms_deform_attn_members(arguments)
    out = value.new_empty(batch, num_queries, num_heads * value.shape[-1])
    if out.numel():
        members.out = out
        channels = share_channels(value.shape[-1], members.value, out)
        launch = plan_rows("ms_deform_attn_forward", channels, members.num_rows, num_heads)
        num_samples = members.num_levels * members.num_points
        launch = plan_splits(launch, channels, num_samples, 1, device.num_sms, FEWEST_MS_DEFORM_ATTN_BATCHES)
        members.num_splits = launch.grid[2]
        if members.num_splits == 1:
            device.launch(launch, members)
        else:
            shape = (members.num_splits, members.num_rows, num_heads, value.shape[-1])
            members.split_sums = value.new_empty(shape, dtype=accumulation_dtype(value.dtype))
            members.freeze()
            device.launch(launch, members)
            device.launch(plan_rows("add_splits", channels, members.num_rows, num_heads), members)
    return out


def ms_deform_attn_backward(
    device: Device,
    grad_out: Tensor,
    arguments: MSDeformAttnArguments,
    needs_value: bool,
    deterministic: bool = False,
) -> MSDeformAttnGradients:
    """Gradients of `ms_deform_attn_forward`; of value only if needs_value.

    deterministic: all sums are in a fixed order, so that two calls give the same bits.
    """
    value = arguments.value
    members = _ms_deform_attn_members(arguments)
    members.grad_out = contiguous_and_aligned(grad_out)
    works = _works(members)
    members.grad_locations = grad_locations = _written(arguments.sampling_locations, works)
    members.grad_weights = grad_weights = _written(arguments.attention_weights, works)
    channels = share_channels(value.shape[-1], members.value, members.grad_out)
    launch = plan_rows("ms_deform_attn_backward", channels, members.num_rows, members.num_heads)
    grad_value = _launch_backward(
        device, launch, members, value, needs_value, is_mmfs_attention=False, deterministic=deterministic
    )
    return MSDeformAttnGradients(grad_value, grad_locations, grad_weights)


def _ms_deform_attn_members(arguments: MSDeformAttnArguments) -> KernelArguments:
    batch, num_queries, num_heads, num_levels, num_points = arguments.attention_weights.shape
    return KernelArguments(
        **_images(arguments.value, arguments.spatial_shapes),
        num_rows=batch * num_queries,
        num_queries=num_queries,
        num_heads=num_heads,
        num_channels=arguments.value.shape[-1],
        num_levels=num_levels,
        num_points=num_points,
        value=contiguous_and_aligned(arguments.value),
        locations=contiguous_and_aligned(arguments.sampling_locations),
        weights=contiguous_and_aligned(arguments.attention_weights),
    )


# ---------------------------------------------------------------------------------------------------------------------
# mmfs_attention


def mmfs_attention_forward(device: Device, arguments: MMFSAttentionArguments) -> tuple[Tensor, Tensor]:
    """`reference.mmfs_attention_reference`, without a graph, and the log-sum-exp [B, Q, H] that the backward takes.

    A row that is to see images beyond the bank is NaN, and so is all output if sizes per image do not add up to the
    pixels of value: to find out before the launch, the host would have to wait for the device.
    """
    value = arguments.value
    batch, num_queries, num_heads = arguments.attention_logits.shape[:3]
    members = _mmfs_attention_members(arguments)
    out = value.new_empty(batch, num_queries, num_heads * value.shape[-1])
    if not out.numel():
        return out, _wide_zeros(value, batch, num_queries, num_heads)
    # Every element is written: zeros would be one more kernel.
    lse = value.new_empty((batch, num_queries, num_heads), dtype=accumulation_dtype(value.dtype))
    members.out, members.lse = out, lse
    channels = share_channels(value.shape[-1], members.value, out)
    launch = plan_rows("mmfs_attention_forward", channels, members.num_rows, num_heads)
    num_samples = members.num_levels * members.num_points
    launch = plan_splits(launch, channels, num_samples, members.most_images, device.num_sms)
    members.num_splits = launch.grid[2]
    if members.num_splits == 1:
        device.launch(launch, members)
    else:
        shape = (members.num_splits, members.num_rows, num_heads)
        members.split_sums = value.new_empty(*shape, value.shape[-1], dtype=lse.dtype)
        members.split_softmaxes = value.new_empty(*shape, 2, dtype=lse.dtype)
        members.freeze()
        device.launch(launch, members)
        device.launch(plan_rows("merge_splits", channels, members.num_rows, num_heads), members)
    return out, lse


def mmfs_attention_backward(
    device: Device,
    grad_out: Tensor,
    arguments: MMFSAttentionArguments,
    needs_value: bool,
    lse: Tensor | None = None,
    deterministic: bool = False,
) -> MMFSAttentionGradients:
    """Gradients of `mmfs_attention_forward`; of value only if needs_value.

    lse: what the forward returned; None: computed again, from the logits.
    deterministic: all sums are in a fixed order, so that two calls give the same bits.
    """
    value = arguments.value
    members = _mmfs_attention_members(arguments)
    members.grad_out = contiguous_and_aligned(grad_out)
    channels = share_channels(value.shape[-1], members.value, members.grad_out)
    num_rows, num_heads = members.num_rows, members.num_heads
    num_samples = members.num_levels * members.num_points
    launch = plan_rows("mmfs_attention_backward", channels, num_rows, num_heads, num_samples, device.shared_bytes)
    members.num_tiles = max(1, launch.grid[0]) if deterministic else 1

    works = _works(members)
    points_of_slot = (members.point_levels, members.point_points, 2)
    members.grad_points = _wide_zeros(value, num_rows, num_heads, members.num_slots, *points_of_slot)
    members.grad_offsets = grad_offsets = _written(arguments.sampling_offsets, works)
    members.grad_logits = grad_logits = _written(arguments.attention_logits, works)
    for name in ("offset_table", "logit_table", "null_value"):
        tensor = getattr(arguments, name)
        if tensor is not None:
            setattr(members, f"grad_{name}", _wide_zeros(value, members.num_tiles, *tensor.shape))
    members.has_lse = lse is not None
    members.lse = _wide_zeros(value, num_rows, num_heads) if lse is None else lse
    grad_value = _launch_backward(
        device, launch, members, value, needs_value, is_mmfs_attention=True, deterministic=deterministic
    )

    def finished(sums: Tensor | None, tensor: Tensor | None) -> Tensor:
        if sums is None or tensor is None:
            return _wide_zeros(value, 0)
        return sums.sum(0).view(tensor.shape).to(tensor.dtype)

    points = arguments.reference_points
    return MMFSAttentionGradients(
        grad_value,
        members.grad_points.sum(1).view(points.shape).to(points.dtype),
        grad_offsets,
        grad_logits,
        finished(members.grad_offset_table, arguments.offset_table),
        finished(members.grad_logit_table, arguments.logit_table),
        finished(members.grad_null_value, arguments.null_value),
    )


def _mmfs_attention_members(arguments: MMFSAttentionArguments) -> KernelArguments:
    batch, num_queries, num_heads, num_levels, num_points = arguments.attention_logits.shape
    offset_table, logit_table, null_value = arguments.offset_table, arguments.logit_table, arguments.null_value
    num_slots, point_levels, point_points = arguments.points_by_slot.shape[2:5]
    return KernelArguments(
        **_images(arguments.value, arguments.sizes),
        num_rows=batch * num_queries,
        num_queries=num_queries,
        num_heads=num_heads,
        num_channels=arguments.value.shape[-1],
        num_levels=num_levels,
        num_points=num_points,
        num_slots=num_slots,
        point_levels=point_levels,
        point_points=point_points,
        offset_levels=arguments.offsets_by_level.shape[3],
        num_offset_ages=0 if offset_table is None else offset_table.shape[0],
        num_logit_ages=0 if logit_table is None else logit_table.shape[0],
        has_null=arguments.null_logit is not None,
        null_logit=arguments.null_logit or 0.0,
        visible=_as_int64(arguments.visible),
        image_indices=_as_int64(arguments.image_indices),
        value=contiguous_and_aligned(arguments.value),
        points=contiguous_and_aligned(arguments.reference_points),
        offsets=contiguous_and_aligned(arguments.sampling_offsets),
        logits=contiguous_and_aligned(arguments.attention_logits),
        offset_table=None if offset_table is None else contiguous_and_aligned(offset_table),
        logit_table=None if logit_table is None else contiguous_and_aligned(logit_table),
        null_value=None if null_value is None else contiguous_and_aligned(null_value),
    )


def _as_int64(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else contiguous_and_aligned(tensor.long())


# ---------------------------------------------------------------------------------------------------------------------
# Both ops


def _images(value: Tensor, spatial_shapes: Sequence[int] | Tensor) -> dict[str, Any]:
    """Members of KernelArguments that say where the images and their levels are.

    Raises:
        ValueError: more levels or pixels than the kernels can index.
    """
    num_pixels = value.shape[:-2].numel()
    num_levels = spatial_shapes.shape[1] if isinstance(spatial_shapes, Tensor) else len(spatial_shapes) // 2
    if num_levels > MAX_LEVELS:
        raise ValueError(f"spatial_shapes has {num_levels} levels. The CUDA kernels take at most {MAX_LEVELS}.")
    pixels_per_image = value.shape[-3]  # of all images if they differ in size
    if pixels_per_image >= 2**31:
        raise ValueError(f"value has {pixels_per_image} pixels an image. The CUDA kernels take less than 2**31.")
    if isinstance(spatial_shapes, Tensor):
        planes = image_planes(spatial_shapes, num_pixels)
        return {
            "num_images": planes.shape[0],
            "num_pixels": num_pixels,
            "pixels_per_image": 0,
            "image_planes": planes,
        }
    return {
        "num_images": value.shape[0],
        "num_pixels": num_pixels,
        "pixels_per_image": pixels_per_image,
        "heights": tuple(spatial_shapes[::2]),
        "widths": tuple(spatial_shapes[1::2]),
    }


def image_planes(image_shapes: Tensor, num_pixels: int) -> Tensor:
    """Height, width and first pixel of each level of each image: int [N, L, 2] -> int64 [N, L, 3].

    All -1 if the sizes do not fit value: to raise an error, as `reference.image_planes` does, the host would have to
    wait for the device.
    """
    sizes = image_shapes.long()
    pixels = sizes.prod(-1)
    ends = pixels.flatten().cumsum(0).view_as(pixels)
    planes = torch.cat([sizes, (ends - pixels)[..., None]], dim=-1)
    return torch.where(sizes_fit(sizes, num_pixels), planes, -1)


def _works(members: KernelArguments) -> bool:
    """Whether there is anything to compute: the output has elements."""
    return members.num_rows * members.num_heads * members.num_channels > 0


def _launch_backward(
    device: Device,
    launch: Launch,
    members: KernelArguments,
    value: Tensor,
    needs_value: bool,
    *,
    is_mmfs_attention: bool,
    deterministic: bool,
) -> Tensor:
    """Launches the kernel of the other gradients; it sums the gradient of value too, or a second kernel does.

    Returns:
        The gradient of value, in its dtype; without elements unless needs_value.
    """
    if not needs_value or not _works(members) or not value.numel():
        if _works(members):
            device.launch(launch, members)
        return torch.zeros_like(value, memory_format=torch.contiguous_format) if needs_value else value.new_empty(0)
    plan = plan_value_gradient(
        members,
        value.dtype,
        is_mmfs_attention=is_mmfs_attention,
        deterministic=deterministic,
        num_sms=device.num_sms,
        shared_bytes=device.shared_bytes,
    )
    if plan.launch is None:
        grad_value = members.grad_value = _wide_zeros(value, *value.shape)
        device.launch(launch, members)
        return grad_value.to(value.dtype)
    device.launch(launch, members)
    grad_value = members.grad_value = torch.empty_like(value, memory_format=torch.contiguous_format)
    members.tile_pixels = plan.launch.tile_pixels
    device.launch(plan.launch, members)
    return grad_value


def _wide_zeros(value: Tensor, *shape: int) -> Tensor:
    return value.new_zeros(shape, dtype=accumulation_dtype(value.dtype))


def _written(tensor: Tensor, works: bool) -> Tensor:
    """Like tensor, for a kernel to write every element; where nothing is launched, zero."""
    make = torch.empty_like if works else torch.zeros_like
    return make(tensor, memory_format=torch.contiguous_format)
