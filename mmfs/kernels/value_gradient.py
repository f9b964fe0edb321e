"""How the gradient of value is summed, and the launch that does it: decided on the host, from shapes alone.

Letters as in arguments.cuh. There are three ways:

* "atomic": the backward kernel of the op adds to global memory as it goes, in float32, four channels at once from sm_90
  on. Any shape; the order is not fixed, and a half-type value is summed in a float32 copy and converted.
* "map": map_gradient.cu. A block owns a tile of an image's map in shared memory and walks the rows that see the image.
  Any shape; fixed order. Each block places all samples of its rows, so it is worth it where few tiles make a map.
* "dense": dense_gradient.cu. A product of matrices on tensor cores; small maps, half types, mmfs_attention.

None of them has been timed. The limits below follow from counting additions, loads and products, and keep to shapes
where the counts differ by far; everything else takes the atomic way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch

from mmfs.kernels.arguments import KernelArguments
from mmfs.kernels.plan import WARP, Launch
from mmfs.kernels.source import MOST_THREADS, Instance
from mmfs.reference import accumulation_dtype

MANY_ADDITIONS: Final = 16
"""Additions to each pixel, on average, from which sums in the shared memory of one block are assumed to be cheaper than
atomic additions in global memory."""
MOST_TILES: Final = 4
"""Tiles of one map: each tile places all samples again."""
MOST_ZEROS: Final = 16
"""Pixels of a map for each pixel that a row touches: with more, most products of the dense way are with zeros."""
FEWEST_DENSE_ROWS: Final = 256
"""Queries in a call: fewer do not fill the matrices."""

DENSE_ROWS: Final = 64  # as in dense_gradient.cu, and the next two
DENSE_PIXELS: Final = 384
DENSE_COLUMNS: Final = 8  # channels of one product of matrices
HALF_TYPES: Final = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class ValueGradient:
    way: Literal["atomic", "map", "dense"]
    launch: Launch | None  # after the launch of all other gradients; None: that one adds
    reason: str


def plan_value_gradient(
    arguments: KernelArguments,
    dtype: torch.dtype,
    *,
    is_mmfs_attention: bool,
    deterministic: bool,
    num_sms: int,
    shared_bytes: int,
) -> ValueGradient:
    """The way for a call whose value has elements.

    Args:
        arguments: of the call; sizes are read, no tensor.
        dtype: of value.
        is_mmfs_attention: mmfs_attention, not ms_deform_attn.
        deterministic: two calls must give the same bits.
        num_sms: multiprocessors of the GPU.
        shared_bytes: bytes of shared memory that a block can ask for.
    """
    num_pixels = -(-arguments.num_pixels // max(1, arguments.num_images))  # of an image; the mean if they differ
    touched = 4 * arguments.num_levels * arguments.num_points  # pixels, by a row, head and image
    additions = touched * arguments.num_queries // num_pixels
    launch = _dense(arguments, dtype, num_pixels)
    if (
        is_mmfs_attention
        and dtype in HALF_TYPES
        and num_pixels <= MOST_ZEROS * touched
        and arguments.num_queries >= FEWEST_DENSE_ROWS
        and launch.shared_bytes <= shared_bytes
        and _blocks(launch) >= num_sms
    ):
        return ValueGradient(
            "dense",
            launch,
            f"a row touches up to {touched} of the {num_pixels} pixels of an image, so few that are not touched, and "
            f"{dtype} is a type of tensor cores",
        )
    launch = _map(arguments, dtype, is_mmfs_attention, num_pixels, shared_bytes)
    if deterministic:
        return ValueGradient("map", launch, "torch.use_deterministic_algorithms is on, which asks for a fixed order")
    num_tiles = -(-_blocks(launch) // (max(1, arguments.num_images) * arguments.num_heads))
    if additions < MANY_ADDITIONS:
        reason = f"a pixel gets about {additions} additions, and {MANY_ADDITIONS} are worth a sum in shared memory"
    elif num_tiles > MOST_TILES:
        reason = (
            f"a map would be {num_tiles} tiles of shared memory, and each of more than {MOST_TILES} places all samples"
        )
    elif _blocks(launch) < num_sms:
        reason = f"blocks that own a tile would be {_blocks(launch)}, fewer than the {num_sms} multiprocessors"
    else:
        return ValueGradient(
            "map", launch, f"a pixel gets about {additions} additions, and {num_tiles} tiles are a map"
        )
    return ValueGradient("atomic", None, reason)


def _blocks(launch: Launch) -> int:
    x, y, z = launch.grid
    return x * y * z


def _grid(arguments: KernelArguments, num_pixels: int, tile_pixels: int, slice_channels: int) -> tuple[int, int, int]:
    if arguments.image_planes is None:
        num_tiles = arguments.num_images * -(-num_pixels // tile_pixels)
    else:
        num_tiles = -(-arguments.num_pixels // tile_pixels)
    return num_tiles, arguments.num_heads, -(-arguments.num_channels // slice_channels)


def _map(
    arguments: KernelArguments, dtype: torch.dtype, is_mmfs_attention: bool, num_pixels: int, shared_bytes: int
) -> Launch:
    wide = accumulation_dtype(dtype).itemsize
    lane_channels = channels_of_lane(arguments.num_channels)
    threads = MOST_THREADS["map_gradient"]
    batch = threads * (16 + 4 * wide + 4)  # pixels, shares and rows
    taken = 4 * threads + -(-4 * threads // WARP // 16) * 16 + 2 * batch  # a list of rows with its counts, two batches
    pixel_bytes = WARP * lane_channels * wide
    most = (shared_bytes - taken) // pixel_bytes
    # Tiles of one size: the last is not a small rest.
    owned = arguments.num_pixels if arguments.image_planes is not None else num_pixels
    tile_pixels = -(-owned // -(-owned // most))
    return Launch(
        Instance("map_gradient", dtype, (is_mmfs_attention, lane_channels)),
        _grid(arguments, num_pixels, tile_pixels, WARP * lane_channels),
        threads,
        taken + tile_pixels * pixel_bytes,
        tile_pixels,
    )


def _dense(arguments: KernelArguments, dtype: torch.dtype, num_pixels: int) -> Launch:
    tiles = column_tiles(arguments.num_channels)
    threads = MOST_THREADS["dense_gradient"]
    list_bytes = 4 * threads + -(-4 * threads // WARP // 16) * 16
    weights = 4 * DENSE_ROWS * (DENSE_PIXELS + 4)
    gradients = 4 * DENSE_ROWS // 2 * (tiles * DENSE_COLUMNS + 8)
    return Launch(
        Instance("dense_gradient", dtype, (tiles,)),
        _grid(arguments, num_pixels, DENSE_PIXELS, tiles * DENSE_COLUMNS),
        threads,
        list_bytes + weights + gradients,
        DENSE_PIXELS,
    )


def channels_of_lane(num_channels: int) -> int:
    """Template argument CHANNELS of map_gradient."""
    return 2 if num_channels > WARP else 1


def column_tiles(num_channels: int) -> int:
    """Template argument TILES of dense_gradient."""
    return 8 if num_channels > 4 * DENSE_COLUMNS else 4


def value_gradient_instances(dtype: torch.dtype, num_channels: int) -> list[Instance]:
    """Every instance that calls with heads of this many channels can launch here."""
    maps = [
        Instance("map_gradient", dtype, (is_mmfs_attention, channels_of_lane(num_channels)))
        for is_mmfs_attention in (False, True)
    ]
    dense = [Instance("dense_gradient", dtype, (column_tiles(num_channels),))] if dtype in HALF_TYPES else []
    return maps + dense
