"""Both ops and their gradients as launches of the kernels. Whoever launches is given: a GPU, or the tests' emulation.

Nothing here waits for the device. Letters as in arguments.cuh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mmfs.embedding_bag import MMFSGradients
from mmfs.kernels.arguments import MAX_LEVELS, Arguments
from mmfs.kernels.plan import Launch, plan_rows, plan_splits, share_channels
from mmfs.kernels.value_gradient import plan_value_gradient
from mmfs.reference import accumulation_dtype

FEWEST_MS_DEFORM_ATTN_BATCHES = 4
"""Of a split, in batches of samples: the rows of ms_deform_attn have few samples, and merging takes one more launch."""


class Device(Protocol):
    @property
    def num_sms(self) -> int:
        """Multiprocessors of the GPU."""

    @property
    def shared_bytes(self) -> int:
        """Of shared memory that a block can ask for."""

    def launch(self, launch: Launch, arguments: Arguments) -> None: ...


# ---------------------------------------------------------------------------------------------------------------------
# ms_deform_attn


def ms_deform_attn_forward(
    device: Device,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """`reference.ms_deform_attn_reference`, without a graph."""
    batch, num_queries, num_heads = attention_weights.shape[:3]
    arguments = _ms_deform_attn_arguments(value, spatial_shapes, sampling_locations, attention_weights)
    out = value.new_empty(batch, num_queries, num_heads * value.shape[-1])
    if out.numel():
        arguments.out = out
        channels = share_channels(value.shape[-1], arguments.value, out)
        launch = plan_rows("ms_deform_attn_forward", channels, arguments.num_rows, num_heads)
        num_samples = arguments.num_levels * arguments.num_points
        launch = plan_splits(launch, channels, num_samples, 1, device.num_sms, FEWEST_MS_DEFORM_ATTN_BATCHES)
        arguments.num_splits = launch.grid[2]
        if arguments.num_splits == 1:
            device.launch(launch, arguments)
        else:
            parts = (arguments.num_splits, arguments.num_rows, num_heads, value.shape[-1])
            arguments.split_sums = value.new_empty(parts, dtype=accumulation_dtype(value.dtype))
            device.launch(launch, arguments)
            device.launch(plan_rows("add_splits", channels, arguments.num_rows, num_heads), arguments)
    return out


def ms_deform_attn_backward(
    device: Device,
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value (without elements unless needs_value), sampling_locations and attention_weights.

    deterministic: all sums are in a fixed order, so that two calls give the same bits.
    """
    arguments = _ms_deform_attn_arguments(value, spatial_shapes, sampling_locations, attention_weights)
    arguments.grad_out = grad_out.contiguous()
    works = _works(arguments)
    arguments.grad_offsets = grad_locations = _written(sampling_locations, works)
    arguments.grad_logits = grad_weights = _written(attention_weights, works)
    channels = share_channels(value.shape[-1], arguments.value, arguments.grad_out)
    launch = plan_rows("ms_deform_attn_backward", channels, arguments.num_rows, arguments.num_heads)
    grad_value = _launch_backward(
        device, launch, arguments, value, needs_value, is_mmfs_attention=False, deterministic=deterministic
    )
    return grad_value, grad_locations, grad_weights


def _ms_deform_attn_arguments(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> Arguments:
    batch, num_queries, num_heads, num_levels, num_points = attention_weights.shape
    return Arguments(
        **_images(value, spatial_shapes),
        num_rows=batch * num_queries,
        num_queries=num_queries,
        num_heads=num_heads,
        num_channels=value.shape[-1],
        num_levels=num_levels,
        num_points=num_points,
        value=value.contiguous(),
        offsets=sampling_locations.contiguous(),
        logits=attention_weights.contiguous(),
    )


# ---------------------------------------------------------------------------------------------------------------------
# mmfs_attention


def mmfs_attention_forward(
    device: Device,
    value: Tensor,
    spatial_shapes: Sequence[int] | Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
    null_value: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`reference.mmfs_attention_reference`, without a graph, and the log-sum-exp [B, Q, H] that the backward takes.

    A row whose visible range reaches beyond the bank is NaN, and so is all output if sizes per image do not add up to
    the pixels of value: finding out before the launch would be to wait for the device.
    """
    batch, num_queries, num_heads = attention_logits.shape[:3]
    arguments = _mmfs_attention_arguments(
        value,
        spatial_shapes,
        reference_points,
        sampling_offsets,
        attention_logits,
        visible,
        offset_table,
        logit_table,
        null_logit,
        null_value,
    )
    out = value.new_empty(batch, num_queries, num_heads * value.shape[-1])
    lse = _wide_zeros(value, batch, num_queries, num_heads)
    if not out.numel():
        return out, lse
    arguments.out, arguments.lse = out, lse
    channels = share_channels(value.shape[-1], arguments.value, out)
    launch = plan_rows("mmfs_attention_forward", channels, arguments.num_rows, num_heads)
    num_samples = arguments.num_levels * arguments.num_points
    launch = plan_splits(launch, channels, num_samples, arguments.num_images, device.num_sms)
    arguments.num_splits = launch.grid[2]
    if arguments.num_splits == 1:
        device.launch(launch, arguments)
    else:
        parts = (arguments.num_splits, arguments.num_rows, num_heads)
        arguments.split_sums = value.new_empty(*parts, value.shape[-1], dtype=lse.dtype)
        arguments.split_softmaxes = value.new_empty(*parts, 2, dtype=lse.dtype)
        device.launch(launch, arguments)
        device.launch(plan_rows("merge_splits", channels, arguments.num_rows, num_heads), arguments)
    return out, lse


def mmfs_attention_backward(
    device: Device,
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int] | Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
    null_value: Tensor | None,
    needs_value: bool,
    lse: Tensor | None = None,
    deterministic: bool = False,
) -> MMFSGradients:
    """Gradients of `mmfs_attention_forward`; of value only if needs_value.

    lse: what the forward returned; None: computed again, from the logits.
    deterministic: all sums are in a fixed order, so that two calls give the same bits.
    """
    arguments = _mmfs_attention_arguments(
        value,
        spatial_shapes,
        reference_points,
        sampling_offsets,
        attention_logits,
        visible,
        offset_table,
        logit_table,
        null_logit,
        null_value,
    )
    arguments.grad_out = grad_out.contiguous()
    channels = share_channels(value.shape[-1], arguments.value, arguments.grad_out)
    num_rows, num_heads = arguments.num_rows, arguments.num_heads
    num_samples = arguments.num_levels * arguments.num_points
    launch = plan_rows("mmfs_attention_backward", channels, num_rows, num_heads, num_samples, device.shared_bytes)
    arguments.num_tiles = max(1, launch.grid[0]) if deterministic else 1

    works = _works(arguments)
    arguments.grad_points = _wide_zeros(value, num_rows, num_heads, 2)
    arguments.grad_offsets = grad_offsets = _written(sampling_offsets, works)
    arguments.grad_logits = grad_logits = _written(attention_logits, works)
    for name, table in (("offset_table", offset_table), ("logit_table", logit_table), ("null_value", null_value)):
        if table is not None:
            setattr(arguments, f"grad_{name}", _wide_zeros(value, arguments.num_tiles, *table.shape))
    arguments.has_lse = lse is not None
    arguments.lse = _wide_zeros(value, num_rows, num_heads) if lse is None else lse
    grad_value = _launch_backward(
        device, launch, arguments, value, needs_value, is_mmfs_attention=True, deterministic=deterministic
    )

    def finished(sums: Tensor | None, tensor: Tensor | None) -> Tensor:
        if sums is None or tensor is None:
            return _wide_zeros(value, 0)
        return sums.sum(0).view(tensor.shape).to(tensor.dtype)

    points = arguments.grad_points.sum(1).view(reference_points.shape).to(reference_points.dtype)
    return MMFSGradients(
        grad_value,
        points,
        grad_offsets,
        grad_logits,
        finished(arguments.grad_offset_table, offset_table),
        finished(arguments.grad_logit_table, logit_table),
        finished(arguments.grad_null_value, null_value),
    )


def _mmfs_attention_arguments(
    value: Tensor,
    spatial_shapes: Sequence[int] | Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
    null_value: Tensor | None,
) -> Arguments:
    batch, num_queries, num_heads, num_levels, num_points = attention_logits.shape
    return Arguments(
        **_images(value, spatial_shapes),
        num_rows=batch * num_queries,
        num_queries=num_queries,
        num_heads=num_heads,
        num_channels=value.shape[-1],
        num_levels=num_levels,
        num_points=num_points,
        num_offset_ages=0 if offset_table is None else offset_table.shape[0],
        num_logit_ages=0 if logit_table is None else logit_table.shape[0],
        has_null=null_logit is not None,
        null_logit=null_logit or 0.0,
        visible=visible.long().contiguous(),
        value=value.contiguous(),
        points=reference_points.contiguous(),
        offsets=sampling_offsets.contiguous(),
        logits=attention_logits.contiguous(),
        offset_table=None if offset_table is None else offset_table.contiguous(),
        logit_table=None if logit_table is None else logit_table.contiguous(),
        null_value=None if null_value is None else null_value.contiguous(),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Both ops


def _images(value: Tensor, spatial_shapes: Sequence[int] | Tensor) -> dict[str, Any]:
    """Members of Arguments that say where the images and their levels are.

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

    All -1 if the sizes do not fit value: `reference.image_planes` raises, but knows because it waits for the device.
    """
    sizes = image_shapes.long()
    pixels = sizes.prod(-1)
    ends = pixels.flatten().cumsum(0).view_as(pixels)
    planes = torch.cat([sizes, (ends - pixels)[..., None]], dim=-1)
    fits = (pixels.sum() == num_pixels) & (sizes > 0).all()
    return torch.where(fits, planes, -1)


def _works(arguments: Arguments) -> bool:
    """Whether the output has elements."""
    return arguments.num_rows * arguments.num_heads * arguments.num_channels > 0


def _launch_backward(
    device: Device,
    launch: Launch,
    arguments: Arguments,
    value: Tensor,
    needs_value: bool,
    *,
    is_mmfs_attention: bool,
    deterministic: bool,
) -> Tensor:
    """Launches what computes the other gradients, and in it or after it the gradient of value.

    Returns:
        The gradient of value, in its dtype; without elements unless needs_value.
    """
    if not needs_value or not _works(arguments) or not value.numel():
        if _works(arguments):
            device.launch(launch, arguments)
        return torch.zeros_like(value, memory_format=torch.contiguous_format) if needs_value else value.new_empty(0)
    plan = plan_value_gradient(
        arguments,
        value.dtype,
        is_mmfs_attention=is_mmfs_attention,
        deterministic=deterministic,
        num_sms=device.num_sms,
        shared_bytes=device.shared_bytes,
    )
    if plan.launch is None:
        grad_value = arguments.grad_value = _wide_zeros(value, *value.shape)
        device.launch(launch, arguments)
        return grad_value.to(value.dtype)
    device.launch(launch, arguments)
    grad_value = arguments.grad_value = torch.empty_like(value, memory_format=torch.contiguous_format)
    arguments.tile_pixels = plan.launch.tile_pixels
    device.launch(plan.launch, arguments)
    return grad_value


def _wide_zeros(value: Tensor, *shape: int) -> Tensor:
    return value.new_zeros(shape, dtype=accumulation_dtype(value.dtype))


def _written(tensor: Tensor, works: bool) -> Tensor:
    """Like tensor, for a kernel to write every element; where nothing is launched, zero."""
    make = torch.empty_like if works else torch.zeros_like
    return make(tensor, memory_format=torch.contiguous_format)
