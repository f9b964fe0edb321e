"""What a runtime has to know about the mmfs nodes: inputs, sizes, types. All kinds of plugins use this.

Letters: N images of the bank, S pixels of all levels of an image, H heads, D channels of a head, L levels, P points,
B batch, Q queries, A rows of the tables, K slots of a list of images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

from mmfs.kernels.arguments import MAX_LEVELS, check_counts

NAMESPACE: Final = "mmfs"
VERSION: Final = "1"
"""TensorRT finds the plugin of a node by these and the name of the node."""

INPUTS: Final = {
    "MMFS": (
        "value",  # [N, S, H, D]
        "reference_points",  # [B, Q, 2]
        "sampling_offsets",  # [B, Q, H, P, 2]
        "attention_logits",  # [B, Q, H, L, P]
        "visible",  # [B, Q, 2]
        "offset_table",  # [A, H, P, 2]
        "logit_table",  # [A, H, L, P]
        "null_value",  # [H, D]
    ),
    "MMFSImageLists": (
        "value",  # [N, S, H, D]
        "reference_points",  # [B, Q, K, L or 1, P or 1, 2]
        "sampling_offsets",  # [B, Q, H, L or 1, P, 2]
        "attention_logits",  # [B, Q, H, L, P]
        "image_indices",  # [B, Q, K]
        "offset_table",  # [A, H, L or 1, P, 2], L as in sampling_offsets
        "logit_table",  # [A, H, L, P]
        "null_value",  # [H, D]
    ),
    "MSDeformAttn": (
        "value",  # [B, S, H, D]
        "sampling_locations",  # [B, Q, H, L, P, 2]
        "attention_weights",  # [B, Q, H, L, P]
    ),
}
"""Inputs of each node in order. The output is [B, Q, H*D], with the type of value."""

WEIGHTS: Final = {
    "MMFS": "attention_logits",
    "MMFSImageLists": "attention_logits",
    "MSDeformAttn": "attention_weights",
}
"""The input of each node whose shape has batch, queries, heads, levels and points."""

ATTRIBUTES: Final = {
    "MMFS": ("spatial_shapes", "null_logit", "use_null"),
    "MMFSImageLists": ("spatial_shapes", "null_logit", "use_null"),
    "MSDeformAttn": ("spatial_shapes",),
}
"""The attributes of each node, without `plugin_namespace` and `plugin_version`, which only identify the plugin."""

MOST_PIXELS: Final = 2**31 - 1
"""Of an image: the kernels number them in 32 bits."""

MOST_ROWS: Final = 2**63 - 1
"""Queries of the whole batch, of a call without heads or channels, which launches nothing."""

LARGEST_LOGIT: Final = torch.finfo(torch.float32).max
"""The attribute null_logit is a float32."""

VALUE_TYPES: Final = (torch.float32, torch.float16, torch.bfloat16)

Size = TypeVar("Size")


@dataclass(frozen=True)
class Node:
    """One node: its type and its attributes."""

    operator: str
    """A key of `INPUTS`."""

    spatial_shapes: tuple[int, ...]
    """Height, width, height, width, ... of the levels."""

    null_logit: float | None = None
    """None: plain softmax."""

    @property
    def is_mmfs_attention(self) -> bool:
        """One of the two nodes of `mmfs.mmfs_attention`."""
        return self.operator != "MSDeformAttn"

    def __post_init__(self) -> None:
        if self.operator not in INPUTS:
            raise ValueError(f"There is no mmfs node {self.operator!r}. Expected one of {', '.join(INPUTS)}.")
        shapes = self.spatial_shapes
        if not shapes or len(shapes) % 2 or min(shapes) < 1:
            raise ValueError(f"spatial_shapes is {list(shapes)}. Expected heights and widths in turn, all positive.")
        if len(shapes) // 2 > MAX_LEVELS:
            raise ValueError(f"spatial_shapes has {len(shapes) // 2} levels. The CUDA kernels take {MAX_LEVELS}.")
        if (num_pixels := _num_pixels(self)) > MOST_PIXELS:
            raise ValueError(
                f"spatial_shapes is {list(shapes)}, {num_pixels} pixels. The CUDA kernels take at most {MOST_PIXELS} "
                "pixels an image."
            )
        if self.null_logit is not None and not abs(self.null_logit) <= LARGEST_LOGIT:  # false for NaN
            raise ValueError(f"null_logit is {self.null_logit}. Expected a finite float32, or use_null=0 for none.")


@dataclass(frozen=True)
class Sizes:
    """The sizes of one call."""

    batch: int
    num_queries: int
    num_images: int
    pixels_per_image: int
    num_heads: int
    num_channels: int
    num_levels: int
    num_points: int
    num_offset_ages: int = 0
    num_logit_ages: int = 0
    num_slots: int | None = None
    """K; None: there are no lists of images."""

    point_levels: int = 1
    point_points: int = 1
    offset_levels: int = 1
    """L or P where reference points or offsets differ by level or point."""

    @property
    def most_images(self) -> int:
        """That a query can see."""
        return self.num_images if self.num_slots is None else self.num_slots

    @property
    def num_rows(self) -> int:
        """Queries of the whole batch."""
        return self.batch * self.num_queries


def output_shape(
    operator: str, inputs: Sequence[Sequence[Size]], times: Callable[[Size, Size], Size]
) -> tuple[Size, Size, Size]:
    """Shape of the output [B, Q, H*D] from those of the inputs.

    Sizes may be numbers or a builder's expressions; `times` multiplies two of them.
    """
    value = inputs[0]
    weights = inputs[INPUTS[operator].index(WEIGHTS[operator])]
    return weights[0], weights[1], times(value[2], value[3])


def takes_type(operator: str, position: int, types: Sequence[torch.dtype | None]) -> bool:
    """Whether a tensor may have its type, given those before it.

    Args:
        operator: which node.
        position: of an input, or the number of inputs for the output.
        types: of all tensors up to `position`; None for one that PyTorch does not know.
    """
    names = INPUTS[operator]
    if position == len(names):
        return types[position] == types[0]
    if names[position] in ("visible", "image_indices"):
        return types[position] == torch.int64
    return types[position] in VALUE_TYPES


def sizes_of(node: Node, shapes: Sequence[Sequence[int]]) -> Sizes:
    """The sizes in the inputs' shapes.

    Raises:
        ValueError: the shapes contradict each other or the node, or are larger than the kernels take.
    """
    names = INPUTS[node.operator]
    if len(shapes) != len(names):
        raise ValueError(f"{node.operator} has {len(shapes)} inputs. Expected {', '.join(names)}.")
    given = {name: tuple(shape) for name, shape in zip(names, shapes, strict=True)}
    for name, shape in given.items():
        if any(size < 0 for size in shape):
            raise ValueError(f"{name} of {node.operator} has the shape {list(shape)}. Expected sizes of at least 0.")
    weights = WEIGHTS[node.operator]
    for name, rank in (("value", 4), (weights, 5)):
        if len(given[name]) != rank:
            raise ValueError(f"{name} of {node.operator} has the shape {list(given[name])}. Expected {rank} axes.")
    num_images, num_pixels, num_heads, num_channels = given["value"]
    batch, num_queries, _, num_levels, num_points = given[weights]
    by_query = (batch, num_queries, num_heads)
    expected: dict[str, tuple[int, ...]] = {
        "value": (num_images, _num_pixels(node), num_heads, num_channels),
        weights: (*by_query, len(node.spatial_shapes) // 2, num_points),
    }
    offset_ages = logit_ages = 0
    num_slots, point_levels, point_points, offset_levels = None, 1, 1, 1
    slot_axes: tuple[int, ...] = ()  # of points, with lists of images alone
    level_axis: tuple[int, ...] = ()  # of offsets and their table, likewise
    seen = {"visible": (batch, num_queries, 2)}
    if node.operator == "MMFSImageLists":
        num_slots = max((1, *given["image_indices"][2:3]))
        # What is not 1 has to be the whole.
        point_levels, point_points = (
            1 if given["reference_points"][axis : axis + 1] == (1,) else whole
            for axis, whole in ((3, num_levels), (4, num_points))
        )
        offset_levels = 1 if given["sampling_offsets"][3:4] == (1,) else num_levels
        slot_axes, level_axis = (num_slots, point_levels, point_points), (offset_levels,)
        seen = {"image_indices": (batch, num_queries, num_slots)}
    if node.is_mmfs_attention:
        offset_ages, logit_ages = (max((1, *given[name][:1])) for name in ("offset_table", "logit_table"))
        expected |= {
            "reference_points": (batch, num_queries, *slot_axes, 2),
            "sampling_offsets": (*by_query, *level_axis, num_points, 2),
            **seen,
            "offset_table": (offset_ages, num_heads, *level_axis, num_points, 2),
            "logit_table": (logit_ages, num_heads, num_levels, num_points),
            "null_value": (num_heads, num_channels),
        }
    else:
        expected["value"] = (batch, *expected["value"][1:])
        expected["sampling_locations"] = (*by_query, num_levels, num_points, 2)
    for name, shape in expected.items():
        if given[name] != shape:
            raise ValueError(f"{name} of {node.operator} has the shape {list(given[name])}. Expected {list(shape)}.")
    sizes = Sizes(
        batch,
        num_queries,
        num_images,
        num_pixels,
        num_heads,
        num_channels,
        num_levels,
        num_points,
        offset_ages,
        logit_ages,
        num_slots,
        point_levels,
        point_points,
        offset_levels,
    )
    check_counts(num_images, sizes.most_images, num_levels * num_points, num_channels)
    if sizes.num_rows > MOST_ROWS:
        raise ValueError(f"a call has {batch} times {num_queries} queries. The CUDA kernels take at most {MOST_ROWS}.")
    return sizes


def _num_pixels(node: Node) -> int:
    return sum(h * w for h, w in zip(node.spatial_shapes[::2], node.spatial_shapes[1::2], strict=True))
