"""Random ONNX nodes and the shapes of their inputs, as a TensorRT plugin is fed with them: any numbers, no memory.

Letters as in plugins_trt/node_contract.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from plugins_trt.launches import Address

HIGHEST = 2**63 - 1
SIZES = [0, 1, 2, 3, 8, 24, 64, 65535, 65536, 2**20, 2**31 - 64, 2**31 - 1, 2**31, 2**32, 2**40, HIGHEST]
SIDES = [1, 2, 3, 8, 46340, 46341, 2**16, 2**31 - 1, 2**31, 2**32, 2**33, HIGHEST, 0, -1, -(2**63)]
TYPES = [torch.float32, torch.float16, torch.bfloat16]


@dataclass
class NodeCall:
    """What a plugin is given, before anything is checked."""

    operator: str
    spatial_shapes: tuple[int, ...]
    null_logit: float | None
    shapes: list[tuple[int, ...]]
    inputs: list[Address]
    output: Address
    workspace: int
    num_sms: int


def random_node(rng: random.Random) -> NodeCall:
    wild = rng.random() < 0.7

    def size(*usual: int) -> int:
        return rng.choice(SIZES) if wild and rng.random() < 0.15 else rng.choice(usual)

    num_levels = rng.choice([1, 1, 2, 3, 16, 17])
    sides = tuple(
        rng.choice(SIDES) if wild and rng.random() < 0.1 else rng.randint(1, 40) for _ in range(2 * num_levels)
    )
    num_pixels = sum(h * w for h, w in zip(sides[::2], sides[1::2], strict=True))
    if not 0 <= num_pixels <= HIGHEST:
        num_pixels = (num_pixels + 2**63) % 2**64 - 2**63  # what a sum in 64 bits would be
    batch, num_queries, num_images = size(0, 1, 2, 5), size(0, 1, 7, 5000), size(0, 1, 3, 9)
    num_heads, num_channels, num_points = size(1, 2, 8), size(1, 6, 8, 20, 64, 100), size(1, 4, 8, 64)
    rows, samples = (batch, num_queries), (num_levels, num_points)
    kind = rng.random()
    if kind < 0.3:
        operator = "MMFSImageLists"
        slots, offset_levels = size(1, 2, 6), rng.choice([1, num_levels])
        shapes: list[tuple[int, ...]] = [
            (num_images, num_pixels, num_heads, num_channels),
            (*rows, slots, rng.choice([1, num_levels]), rng.choice([1, num_points]), 2),
            (*rows, num_heads, offset_levels, num_points, 2),
            (*rows, num_heads, *samples),
            (*rows, slots),
            (size(0, 1, 2, 50), num_heads, offset_levels, num_points, 2),
            (size(1, 2, 50), num_heads, *samples),
            (num_heads, num_channels),
        ]
    elif kind < 0.6:
        operator = "MMFS"
        shapes = [
            (num_images, num_pixels, num_heads, num_channels),
            (*rows, 2),
            (*rows, num_heads, num_points, 2),
            (*rows, num_heads, *samples),
            (*rows, 2),
            (size(0, 1, 2, 50), num_heads, num_points, 2),
            (size(1, 2, 50), num_heads, *samples),
            (num_heads, num_channels),
        ]
    else:
        operator = "MSDeformAttn"
        shapes = [
            (batch, num_pixels, num_heads, num_channels),
            (*rows, num_heads, *samples, 2),
            (*rows, num_heads, *samples),
        ]
    if rng.random() < 0.15:  # one of them does not fit
        position = rng.randrange(len(shapes))
        shape = list(shapes[position])
        change = rng.choice(["size", "axis more", "axis less", "negative", "empty"])
        if change == "size":
            shape[rng.randrange(len(shape))] = rng.choice(SIZES)
        elif change == "axis more":
            shape.append(1)
        elif change == "axis less":
            shape.pop()
        elif change == "negative":
            shape[rng.randrange(len(shape))] = rng.choice([-1, -(2**63)])
        else:
            shape = []
        shapes[position] = tuple(shape)
    if rng.random() < 0.03:
        shapes.pop()

    def address(dtype: torch.dtype) -> Address:
        odd = rng.choice([1, 2, 4, 8]) if rng.random() < 0.01 else 0
        return Address(rng.randrange(1, 2**44) * 16 + odd, dtype)

    inputs = [address(rng.choice(TYPES)) for _ in shapes]
    if operator != "MSDeformAttn" and len(inputs) > 4:
        inputs[4] = Address(inputs[4].pointer, torch.int64)
    logits = [None, 0.0, -1.25, 3e38, 1e-45]
    if wild:
        logits += [1e300, torch.inf, -torch.inf, torch.nan]
    return NodeCall(
        operator,
        sides if rng.random() > 0.02 else sides[:-1],
        rng.choice(logits) if operator != "MSDeformAttn" else None,
        shapes,
        inputs,
        address(inputs[0].dtype),
        rng.randrange(1, 2**44) * 256,
        rng.choice([1, 24, 132, 256, 400]),
    )
