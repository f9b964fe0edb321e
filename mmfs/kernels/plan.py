"""Which instance of a kernel computes a call, and with how many threads: decided on the host, from shapes alone.

Letters as in arguments.cuh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mmfs.kernels.source import ROW_THREADS, Instance
from mmfs.reference import accumulation_dtype

WARP: Final = 32
VECTOR_BYTES: Final = 16
FEWEST_LANES: Final = 8  # fewer would leave too little shared memory to each of many rows
SHARED_BYTES: Final = 48 * 1024  # what a block has without asking for more
MOST_SPLITS: Final = 32
MOST_HEADS: Final = 65535  # of gridDim.y
MOST_BLOCKS: Final = 2**31 - 1  # of gridDim.x


@dataclass(frozen=True)
class Launch:
    instance: Instance
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    tile_pixels: int = 0  # of value's gradient, where a block owns some


@dataclass(frozen=True)
class Channels:
    """How the lanes of a row share its channels: chunks x lanes x vector >= D."""

    dtype: torch.dtype  # of value
    vector: int
    lanes: int
    chunks: int

    def instance(self, kernel: str) -> Instance:
        return Instance(kernel, self.dtype, (self.vector, self.lanes, self.chunks))

    @property
    def wide_bytes(self) -> int:
        return accumulation_dtype(self.dtype).itemsize


def share_channels(num_channels: int, *tensors: Tensor) -> Channels:
    """The widest vectors to which D and the addresses of all tensors [..., D] are aligned."""
    size = tensors[0].element_size()
    vector = VECTOR_BYTES // size
    while vector > 1 and (num_channels % vector or any(tensor.data_ptr() % (vector * size) for tensor in tensors)):
        vector //= 2
    vectors = -(-num_channels // vector)
    lanes = FEWEST_LANES
    while lanes < min(vectors, WARP):
        lanes *= 2
    return Channels(tensors[0].dtype, vector, lanes, -(-vectors // lanes))


def plan_rows(
    kernel: str,
    channels: Channels,
    num_rows: int,
    num_heads: int,
    num_samples: int = 0,
    most_shared_bytes: int = SHARED_BYTES,
) -> Launch:
    """A kernel with one group of lanes for each row and head.

    Args:
        kernel: its name.
        channels: how the lanes of a group share them.
        num_rows: B*Q.
        num_heads: H.
        num_samples: L*P of a kernel that keeps sums for each level and point of a row.
        most_shared_bytes: the most that a block may ask for.

    Raises:
        ValueError: more queries, heads, levels or points than fit.
    """
    if num_heads > MOST_HEADS:
        raise ValueError(f"value has {num_heads} heads. The CUDA kernels take at most {MOST_HEADS}.")
    threads = ROW_THREADS
    while (needed := _shared_bytes(kernel, channels, threads, num_samples)) > SHARED_BYTES and threads > WARP:
        threads //= 2
    if needed > most_shared_bytes:
        raise ValueError(
            f"levels times points is {num_samples}: the gradients of a block need {needed} bytes of shared memory. "
            f"Expected at most {most_shared_bytes}. Use fewer points, or backend='reference'."
        )
    tiles = -(-num_rows // (threads // channels.lanes))
    if tiles > MOST_BLOCKS:
        raise ValueError(
            f"a call has {num_rows} queries in all. The CUDA kernels take at most "
            f"{MOST_BLOCKS * (threads // channels.lanes)} of them with heads of so many channels."
        )
    return Launch(channels.instance(kernel), (tiles, num_heads, 1), threads, needed)


def _shared_bytes(kernel: str, channels: Channels, threads: int, num_samples: int) -> int:
    """What the kernel takes from SharedMemory, piece by piece."""
    wide = channels.wide_bytes
    groups = threads // channels.lanes
    if kernel in ("add_splits", "merge_splits"):
        return 0
    pieces = [16 * threads, 4 * wide * threads]  # Batch
    if kernel in ("ms_deform_attn_backward", "mmfs_attention_backward"):
        pieces += [4 * wide * threads, 3 * wide * threads]  # of_slot, results
    if kernel == "mmfs_attention_backward":
        # of_row, of_age, of_null, counts
        pieces += [4 * wide * groups * num_samples, 3 * wide * groups * num_samples, wide * groups, 4 * groups]
    return sum(-(-piece // 16) * 16 for piece in pieces)


def plan_splits(
    launch: Launch, channels: Channels, num_samples: int, num_images: int, num_sms: int, fewest_batches: int = 1
) -> Launch:
    """Splits the samples of a row so that there are two blocks for each multiprocessor, if there are as many samples.

    A split gets at least fewest_batches times as many samples as a group has lanes.
    """
    batches = num_images * -(-num_samples // channels.lanes)  # of a row that sees the whole bank
    blocks = launch.grid[0] * launch.grid[1]
    splits = max(1, min(MOST_SPLITS, batches // fewest_batches, 2 * num_sms // max(blocks, 1)))
    return Launch(launch.instance, (*launch.grid[:2], splits), launch.threads, launch.shared_bytes)
