"""A call of a plugin as launches of mmfs's kernels: which, with how many threads, with which bytes. No GPU is used.

A runtime other than PyTorch passes addresses; `mmfs/kernels` plans and packs, as it does for training.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from mmfs.kernels.arguments import KernelArguments
from mmfs.kernels.calls import FEWEST_MS_DEFORM_ATTN_BATCHES
from mmfs.kernels.plan import VECTOR_BYTES, Channels, Launch, plan_rows, plan_splits, share_channels
from mmfs.kernels.source import Instance
from plugins_trt.node_contract import INPUTS, Node, Sizes, sizes_of

MOST_SMS: Final = 256
"""Multiprocessors for which the workspace suffices. It is sized before the GPU is known; a GPU with more is used as if
it had this many."""

KERNELS: Final = {
    "MMFS": ("mmfs_attention_forward", "merge_splits"),
    "MMFSImageLists": ("mmfs_attention_forward", "merge_splits"),
    "MSDeformAttn": ("ms_deform_attn_forward", "add_splits"),
}
"""Of each node: the kernel that samples, and the one that adds up splits if the samples of a row are split."""


@dataclass(frozen=True)
class Address:
    """What a kernel has to know of a tensor; its sizes are members of `KernelArguments`."""

    pointer: int
    dtype: torch.dtype

    def data_ptr(self) -> int:
        """As `Tensor.data_ptr`."""
        return self.pointer

    def element_size(self) -> int:
        """In bytes, as `Tensor.element_size`."""
        return self.dtype.itemsize


@dataclass(frozen=True)
class PackedLaunch:
    """One launch, complete."""

    launch: Launch
    arguments: bytes
    """The structure that the kernel takes by value."""


def instances_of(node: Node, num_channels: int, dtype: torch.dtype) -> tuple[Instance, ...]:
    """Every kernel that a call of this node may launch, for values [..., num_channels] of this type."""
    channels = channels_of(num_channels, dtype)
    return tuple(channels.instance(kernel) for kernel in KERNELS[node.operator])


def workspace_bytes(node: Node, shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> int:
    """Scratch memory that suffices for inputs of these shapes or smaller ones, on any GPU.

    Args:
        node: which.
        shapes: the largest of every input.
        dtype: of value.
    """
    sizes = sizes_of(node, shapes)
    channels = channels_of(sizes.num_channels, dtype)
    launch = plan(node, sizes, channels)
    most_splits = _split(node, sizes, channels, launch, sys.maxsize).grid[2]
    if most_splits == 1:
        return 0
    rows_per_block = launch.threads // channels.lanes
    # Sums, one for each row, head and split: a row is split only while there are fewer than two blocks for each
    # multiprocessor, and into at most most_splits.
    num_sums = min(2 * MOST_SMS * rows_per_block, most_splits * sizes.num_rows * sizes.num_heads)
    return num_sums * (sizes.num_channels + 2) * channels.wide_bytes


def launches(
    node: Node,
    shapes: Sequence[Sequence[int]],
    inputs: Sequence[Address],
    output: Address,
    workspace: int,
    num_sms: int,
) -> list[PackedLaunch]:
    """The launches of one call, in order; none if there is nothing to write.

    Args:
        node: which.
        shapes: of the inputs, in the order of `node_contract.INPUTS`.
        inputs: the same tensors, contiguous.
        output: [B, Q, H*D], contiguous.
        workspace: address of scratch memory of `workspace_bytes`.
        num_sms: of the GPU.

    Raises:
        ValueError: the shapes do not fit the node or are larger than the kernels take, value or output is not aligned
            to 16 bytes, or another input not to its elements.
    """
    sizes = sizes_of(node, shapes)
    given = dict(zip(INPUTS[node.operator], inputs, strict=True))
    for name, address in (*given.items(), ("output", output)):
        multiple = VECTOR_BYTES if name in ("value", "output") else address.element_size()
        if address.pointer % multiple:
            raise ValueError(
                f"{name} of {node.operator} is at address {address.pointer:#x}. Expected a multiple of {multiple}."
            )
    if not sizes.num_rows * sizes.num_heads * sizes.num_channels:
        return []
    channels = channels_of(sizes.num_channels, output.dtype)
    launch = plan(node, sizes, channels)
    launch = _split(node, sizes, channels, launch, min(num_sms, MOST_SMS))
    arguments = arguments_of(node, sizes, given, output)
    arguments.num_splits = launch.grid[2]
    planned = [launch]
    if arguments.num_splits > 1:
        num_sums = arguments.num_splits * sizes.num_rows * sizes.num_heads
        wide = torch.float32
        arguments.split_sums = _as_tensor(Address(workspace, wide))
        if node.is_mmfs_attention:
            softmaxes = workspace + num_sums * sizes.num_channels * wide.itemsize
            arguments.split_softmaxes = _as_tensor(Address(softmaxes, wide))
        planned.append(plan_rows(KERNELS[node.operator][1], channels, sizes.num_rows, sizes.num_heads))
    packed = arguments.pack()
    return [PackedLaunch(launch, packed) for launch in planned]


def channels_of(num_channels: int, dtype: torch.dtype) -> Channels:
    """How the lanes of a row share its channels, at addresses that are multiples of `VECTOR_BYTES`."""
    return share_channels(num_channels, _as_tensor(Address(0, dtype)))


def plan(node: Node, sizes: Sizes, channels: Channels) -> Launch:
    """The launch that samples, without splitting the samples of a row."""
    return plan_rows(KERNELS[node.operator][0], channels, sizes.num_rows, sizes.num_heads)


def _split(node: Node, sizes: Sizes, channels: Channels, launch: Launch, num_sms: int) -> Launch:
    num_samples = sizes.num_levels * sizes.num_points
    if node.is_mmfs_attention:
        return plan_splits(launch, channels, num_samples, sizes.most_images, num_sms)
    return plan_splits(launch, channels, num_samples, 1, num_sms, FEWEST_MS_DEFORM_ATTN_BATCHES)


def arguments_of(node: Node, sizes: Sizes, given: Mapping[str, Any], output: Any) -> KernelArguments:
    """The members that say what a call computes.

    Args:
        node: which.
        sizes: of the call.
        given: the inputs by name: an `Address` or another stand-in for a tensor.
        output: likewise.
    """
    tensors = {name: _as_tensor(address) for name, address in given.items()}
    return KernelArguments(
        num_rows=sizes.num_rows,
        num_queries=sizes.num_queries,
        num_images=sizes.num_images,
        num_pixels=sizes.num_images * sizes.pixels_per_image,
        pixels_per_image=sizes.pixels_per_image,
        num_heads=sizes.num_heads,
        num_channels=sizes.num_channels,
        num_levels=sizes.num_levels,
        num_points=sizes.num_points,
        num_slots=1 if sizes.num_slots is None else sizes.num_slots,
        point_levels=sizes.point_levels,
        point_points=sizes.point_points,
        offset_levels=sizes.offset_levels,
        num_offset_ages=sizes.num_offset_ages,
        num_logit_ages=sizes.num_logit_ages,
        has_null=node.null_logit is not None,
        null_logit=node.null_logit or 0.0,
        heights=node.spatial_shapes[::2],
        widths=node.spatial_shapes[1::2],
        # Each node has some of these.
        visible=tensors.get("visible"),
        image_indices=tensors.get("image_indices"),
        value=tensors["value"],
        locations=tensors.get("sampling_locations"),
        weights=tensors.get("attention_weights"),
        points=tensors.get("reference_points"),
        offsets=tensors.get("sampling_offsets"),
        logits=tensors.get("attention_logits"),
        offset_table=tensors.get("offset_table"),
        logit_table=tensors.get("logit_table"),
        null_value=tensors.get("null_value"),
        out=_as_tensor(output),
    )


def _as_tensor(address: Any) -> Tensor:
    # Planning and packing use only the address and type of a tensor.
    return cast(Tensor, address)
