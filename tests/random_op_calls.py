"""Random calls of the two ops, most of them with something unusual: numbers, ranges, sizes, types, strides, addresses.

Letters: B batch, Q queries, N images, S pixels, H heads, D channels of a head, L levels, P points, A rows of tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor

from op_cases import strided

LOWEST, HIGHEST = -(2**63), 2**63 - 1
ENDS = [
    LOWEST,
    LOWEST + 1,
    -(2**32),
    1 - 2**32,
    -(2**31),
    -2,
    -1,
    0,
    1,
    2,
    3,
    4,
    5,
    2**31 - 1,
    2**32,
    2**32 + 1,
    HIGHEST,
]
"""Of ranges of images."""

NOT_FINITE = [torch.nan, torch.inf, -torch.inf]
TINY = [0.0, -0.0, 1e-45, -1e-40, 1e-38, 5e-324]
PLACES = [*NOT_FINITE, *TINY, 1.0, 0.5, 1e30, -1e30, 3e38, -3e38, 1e5, -1e5, 2.0**24, -(2.0**31), 2.0**63]
LARGE = 1e4
"""A number that half types hold; its products they do not."""

DTYPES = [torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16]


@dataclass
class OpCall:
    """A call of `mmfs.ms_deform_attn` or `mmfs.mmfs_attention`."""

    op: str
    tensors: dict[str, Any]
    """What has a gradient, by name: tensors, of which one may be of a wrong shape, type or layout."""

    rest: dict[str, Any]
    unusual: list[str] = field(default_factory=list)
    """What was done to it, in words."""

    large: bool = False
    """Holds numbers so large that their rounding is more than small results."""

    def __str__(self) -> str:
        shapes = {
            name: f"{str(part.dtype).removeprefix('torch.')}{list(part.shape)}"
            for name, part in self.tensors.items()
            if isinstance(part, Tensor)
        }
        rest = {name: part.tolist() if isinstance(part, Tensor) else part for name, part in self.rest.items()}
        return f"{self.op} {shapes} {rest}; {', '.join(self.unusual) or 'nothing unusual'}"


def random_call(rng: random.Random) -> OpCall:
    call = usual_call(rng)
    for change in rng.sample(CHANGES, rng.choice([0, 0, 1, 1, 2, 3])):
        change(call, rng)
    if rng.random() < 0.12:
        rng.choice(MISTAKES)(call, rng)
    if rng.random() < 0.5:
        rng.choice(LAYOUTS)(call, rng)
    return call


def usual_call(rng: random.Random) -> OpCall:
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    value_dtype = rng.choice(DTYPES)
    other_dtype = rng.choice([value_dtype, value_dtype, torch.float32])

    def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = other_dtype) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator, dtype=torch.float64) * 1.6 - 0.3).to(other_dtype)

    batch, num_queries = rng.choice([1, 1, 2, 2, 3]), rng.choice([1, 2, 3, 5, 5, 9, 40])
    num_heads, dim = rng.choice([1, 1, 2, 2, 3]), rng.choice([1, 3, 3, 8, 8, 8])
    num_levels, num_points = rng.choice([1, 1, 2, 2, 3]), rng.choice([1, 2, 3, 3, 7])
    if rng.random() < 0.15:
        counts = [batch, num_queries, num_heads, dim, num_points]
        counts[rng.randrange(5)] = 0
        batch, num_queries, num_heads, dim, num_points = counts
    sizes = [random_size(rng) for _ in range(num_levels)]
    num_pixels = sum(h * w for h, w in sizes)
    shape = (batch, num_queries, num_heads, num_levels, num_points)
    if rng.random() < 0.4:
        tensors = {
            "value": normal(batch, num_pixels, num_heads, dim, dtype=value_dtype),
            "sampling_locations": uniform(*shape, 2),
            "attention_weights": normal(*shape),
        }
        return OpCall("ms_deform_attn", tensors, {"spatial_shapes": sizes})

    num_images, num_ages = rng.choice([0, 1, 2, 3, 4, 4]), rng.choice([1, 2, 5])
    tensors = {
        "value": normal(num_images, num_pixels, num_heads, dim, dtype=value_dtype),
        "reference_points": uniform(batch, num_queries, 2),
        "sampling_offsets": normal(batch, num_queries, num_heads, num_points, 2, scale=0.2),
        "attention_logits": normal(*shape, scale=2.0),
    }
    if rng.random() < 0.6:
        tensors["offset_table"] = normal(num_ages, num_heads, num_points, 2, scale=0.2)
    if rng.random() < 0.6:
        tensors["logit_table"] = normal(rng.choice([1, num_ages]), num_heads, num_levels, num_points)
    if rng.random() < 0.6:
        tensors["null_value"] = normal(num_heads, dim, dtype=rng.choice([value_dtype, other_dtype]))
    ends = torch.randint(0, num_images + 1, (batch, num_queries, 2), generator=generator)
    rest: dict[str, Any] = {
        "spatial_shapes": sizes,
        "visible": ends.sort(-1).values.to(rng.choice([torch.int64, torch.int64, torch.int32])),
        "null_logit": rng.choice([None, 0.0, 0.0, 1, -1.5, 40.0]),
    }
    if rng.random() < 0.3:  # images that differ in size
        shapes = [[random_size(rng) for _ in range(num_levels)] for _ in range(num_images)]
        rest["spatial_shapes"] = torch.tensor(shapes, dtype=torch.int64).view(num_images, num_levels, 2)
        all_pixels = sum(h * w for levels in shapes for h, w in levels)
        tensors["value"] = normal(all_pixels, num_heads, dim, dtype=value_dtype)
    if rng.random() < 0.4:
        give_lists(tensors, rest, num_images, rng, uniform)
    return OpCall("mmfs_attention", tensors, rest)


def give_lists(
    tensors: dict[str, Any], rest: dict[str, Any], num_images: int, rng: random.Random, uniform: Callable[..., Tensor]
) -> None:
    """Lists of images in place of ranges; points and offsets differ by level or sampled point, or not."""
    batch, num_queries, _, num_levels, num_points = tensors["attention_logits"].shape
    num_slots = rng.choice([0, 1, 2, 3, 6])
    del rest["visible"]
    listed = [rng.randrange(-1, num_images) for _ in range(batch * num_queries * num_slots)]
    lists = torch.tensor(listed, dtype=rng.choice([torch.int64, torch.int32]))
    rest["image_indices"] = lists.view(batch, num_queries, num_slots)
    points = (rng.choice([1, num_levels]), rng.choice([1, num_points]))
    tensors["reference_points"] = uniform(batch, num_queries, num_slots, *(points if rng.random() < 0.7 else ()), 2)
    if rng.random() < 0.4:
        tensors["sampling_offsets"] = tensors["sampling_offsets"].unsqueeze(3).repeat(1, 1, 1, num_levels, 1, 1)
        if "offset_table" in tensors and rng.random() < 0.7:
            tensors["offset_table"] = tensors["offset_table"].unsqueeze(2).repeat(1, 1, num_levels, 1, 1)


def random_size(rng: random.Random) -> tuple[int, int]:
    if rng.random() < 0.01:
        return rng.choice([(1, 5000), (5000, 1)])
    return rng.choice([1, 1, 2, 3, 4, 7]), rng.choice([1, 2, 3, 5, 8])


# ---------------------------------------------------------------------------------------------------------------------
# Unusual numbers. They are not wrong: every implementation has to give what the reference gives.


def spoil(call: OpCall, rng: random.Random, names: Sequence[str], numbers: Sequence[float]) -> None:
    """A few elements of one of the tensors become one of the numbers."""
    names = [name for name in names if isinstance(part := call.tensors.get(name), Tensor) and part.numel()]
    if not names:
        return
    name = rng.choice(names)
    tensor = call.tensors[name]
    for _ in range(rng.choice([1, 1, 3, 10])):
        number = rng.choice(numbers)
        if tensor.dtype == torch.float16 and abs(number) > 65504:
            number = 65504.0 if number > 0 else -65504.0
        tensor.view(-1)[rng.randrange(tensor.numel())] = number
        call.unusual.append(f"{number} in {name}")


def unusual_places(call: OpCall, rng: random.Random) -> None:
    spoil(call, rng, ["sampling_locations", "reference_points", "sampling_offsets", "offset_table"], PLACES)


def on_edges(call: OpCall, rng: random.Random) -> None:
    """Places on centres and borders of pixels, and one pixel outside."""
    name = "sampling_locations" if call.op == "ms_deform_attn" else "reference_points"
    places = call.tensors[name]
    size = rng.choice([1, 2, 3, 4, 5, 7, 8])
    steps = torch.tensor([rng.randrange(-2, 2 * size + 3) / (2 * size) for _ in range(places.numel())])
    call.tensors[name] = steps.view(places.shape).to(places.dtype)
    call.unusual.append(f"{name} on halves of pixels of a side of {size}")


def unusual_weights(call: OpCall, rng: random.Random) -> None:
    spoil(call, rng, ["attention_weights"], [*NOT_FINITE, *TINY])


def unusual_logits(call: OpCall, rng: random.Random) -> None:
    spoil(call, rng, ["attention_logits", "logit_table"], [*NOT_FINITE, *TINY, 1e4, -1e4, 1e30, -1e30, 88.0, -104.0])


def unusual_values(call: OpCall, rng: random.Random) -> None:
    spoil(call, rng, ["value", "null_value"], [*NOT_FINITE, *TINY])


def large_values(call: OpCall, rng: random.Random) -> None:
    call.large = True
    spoil(call, rng, ["value", "null_value", "attention_weights"], [LARGE, -LARGE])


def unusual_null_logit(call: OpCall, rng: random.Random) -> None:
    if call.op == "mmfs_attention":
        call.rest["null_logit"] = rng.choice([5e-324, 1e-40, 88.8, -104.0, 3e38, -3e38, True, 700, 10**30])
        call.unusual.append("null_logit")


def empty_anywhere(call: OpCall, rng: random.Random) -> None:
    """Ranges that end before they begin, at any numbers."""
    change_ranges(call, rng, lambda first, last: last <= first)


def everything_visible(call: OpCall, rng: random.Random) -> None:
    if "visible" in call.rest and isinstance(call.tensors["value"], Tensor):
        shapes = call.rest["spatial_shapes"]
        num_images = len(shapes if isinstance(shapes, Tensor) else call.tensors["value"])
        call.rest["visible"][..., 0] = 0
        call.rest["visible"][..., 1] = num_images
        call.unusual.append("everything visible")


def change_ranges(call: OpCall, rng: random.Random, allowed: Callable[[int, int], bool]) -> None:
    if "visible" not in call.rest or not call.rest["visible"].numel():
        return
    visible = call.rest["visible"] = call.rest["visible"].long()
    for _ in range(rng.choice([1, 2, 5])):
        first, last = rng.choice(ENDS), rng.choice(ENDS)
        if allowed(first, last):
            visible.view(-1, 2)[rng.randrange(visible.numel() // 2)] = torch.tensor([first, last])
            call.unusual.append(f"visible [{first}, {last}]")


def one_image_everywhere(call: OpCall, rng: random.Random) -> None:
    """Lists of one image, or of none."""
    if "image_indices" in call.rest and isinstance(call.tensors["value"], Tensor):
        shapes = call.rest["spatial_shapes"]
        num_images = len(shapes if isinstance(shapes, Tensor) else call.tensors["value"])
        call.rest["image_indices"].fill_(rng.randrange(-1, num_images))
        call.unusual.append("one image in all lists")


CHANGES: list[Callable[[OpCall, random.Random], None]] = [
    unusual_places,
    unusual_places,
    on_edges,
    unusual_weights,
    unusual_logits,
    unusual_values,
    large_values,
    unusual_null_logit,
    empty_anywhere,
    everything_visible,
    one_image_everywhere,
]

# ---------------------------------------------------------------------------------------------------------------------
# Mistakes. Every implementation has to refuse them with the same sentence, or the numbers that it cannot look at, on a
# GPU, have to make NaN.


def ranges_of_any_numbers(call: OpCall, rng: random.Random) -> None:
    change_ranges(call, rng, lambda first, last: True)


def images_of_any_numbers(call: OpCall, rng: random.Random) -> None:
    if "image_indices" not in call.rest or not call.rest["image_indices"].numel():
        return
    lists = call.rest["image_indices"] = call.rest["image_indices"].long()
    for _ in range(rng.choice([1, 2, 5])):
        image = rng.choice(ENDS)
        lists.view(-1)[rng.randrange(lists.numel())] = image
        call.unusual.append(f"image {image}")


def wrong_null_logit(call: OpCall, rng: random.Random) -> None:
    if call.op == "mmfs_attention":
        call.rest["null_logit"] = rng.choice([*NOT_FINITE, 1e300, -1e300, 3.5e38, 10**400, "0", torch.zeros(())])
        call.unusual.append("null_logit")


def wrong_sizes(call: OpCall, rng: random.Random) -> None:
    shapes = call.rest["spatial_shapes"]
    side = rng.choice([0, -1, 1, 2, 3, 2**16, 2**31, 2**32, 2**33, 2**62, HIGHEST, LOWEST])
    if isinstance(shapes, Tensor):
        for _ in range(rng.choice([1, 2])):
            if shapes.numel():
                shapes.view(-1)[rng.randrange(shapes.numel())] = side
    else:
        level = rng.randrange(len(shapes))
        shapes[level] = rng.choice([(side, shapes[level][1]), (side, side), (shapes[level][0], side * 2**64)])
        if rng.random() < 0.3 and all(abs(x) < 2**63 for size in shapes for x in size):
            call.rest["spatial_shapes"] = torch.tensor(shapes)
    call.unusual.append("spatial_shapes")


def wrong_shape(call: OpCall, rng: random.Random) -> None:
    name = rng.choice(list(call.tensors))
    tensor = call.tensors[name]
    axis = rng.randrange(tensor.ndim)
    call.tensors[name] = rng.choice(
        [
            lambda: tensor.unsqueeze(axis),
            lambda: tensor.new_zeros([size + (i == axis) for i, size in enumerate(tensor.shape)]),
            lambda: tensor.new_zeros([size if i != axis else 0 for i, size in enumerate(tensor.shape)]),
            lambda: tensor.flatten(),
            lambda: tensor.new_zeros(()),
        ]
    )()
    call.unusual.append(f"shape of {name}")


def wrong_type(call: OpCall, rng: random.Random) -> None:
    name = rng.choice(list(call.tensors))
    tensor = call.tensors[name]
    call.tensors[name] = rng.choice(
        [
            lambda: tensor.long(),
            lambda: tensor.bool(),
            lambda: tensor.to(torch.complex64),
            lambda: tensor.to(torch.float8_e4m3fn),
            lambda: tensor.to_sparse(),
            lambda: tensor.tolist(),
            lambda: None if name not in ("offset_table", "logit_table", "null_value") else "",
        ]
    )()
    call.unusual.append(f"type of {name}")


def wrong_visible(call: OpCall, rng: random.Random) -> None:
    for name in {"visible", "image_indices"} & call.rest.keys():
        part = call.rest[name]
        call.rest[name] = rng.choice([part.float(), part.short(), part[:1, :-1], part[None], part.flatten(), None])
        call.unusual.append(f"form of {name}")


MISTAKES: list[Callable[[OpCall, random.Random], None]] = [
    ranges_of_any_numbers,
    ranges_of_any_numbers,
    ranges_of_any_numbers,
    images_of_any_numbers,
    images_of_any_numbers,
    images_of_any_numbers,
    wrong_null_logit,
    wrong_sizes,
    wrong_sizes,
    wrong_shape,
    wrong_type,
    wrong_visible,
]

# ---------------------------------------------------------------------------------------------------------------------
# The same numbers, elsewhere in memory


def change_layout(call: OpCall, rng: random.Random, move: Callable[[Tensor], Tensor], words: str) -> None:
    """Moves about half of the tensors."""
    for given in (call.tensors, call.rest):
        for name, part in given.items():
            if isinstance(part, Tensor) and part.layout is torch.strided and rng.random() < 0.5:
                given[name] = move(part)
    call.unusual.append(words)


def one_byte_on(tensor: Tensor) -> Tensor:
    """At an address that is no multiple of the elements' size."""
    plain = tensor.contiguous()
    if not plain.numel():
        return plain
    memory = numpy.zeros(plain.nbytes + 1, dtype=numpy.uint8)
    torch.from_numpy(memory)[1:] = plain.view(-1).view(torch.uint8)
    return torch.frombuffer(memory, dtype=plain.dtype, offset=1, count=plain.numel()).view(tensor.shape)


def one_element_on(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_zeros(1), tensor.reshape(-1)])[1:].view(tensor.shape)


def negated(tensor: Tensor) -> Tensor:
    return torch._neg_view(-tensor) if tensor.dtype in DTYPES else tensor


def repeated(tensor: Tensor) -> Tensor:
    """The first of each row of the first axis, again and again, in the same memory. Other numbers, that is."""
    return tensor[:1].expand_as(tensor) if tensor.is_floating_point() and tensor.ndim and len(tensor) else tensor


LAYOUTS: list[Callable[[OpCall, random.Random], None]] = [
    lambda call, rng: change_layout(call, rng, strided, "strides"),
    lambda call, rng: change_layout(call, rng, one_byte_on, "odd addresses"),
    lambda call, rng: change_layout(call, rng, one_element_on, "odd offsets"),
    lambda call, rng: change_layout(call, rng, negated, "negative views"),
    lambda call, rng: change_layout(call, rng, repeated, "strides of 0"),
]
