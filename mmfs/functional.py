"""The two public functions: their arguments, the checks of these, and the choice of a backend.

Letters: B batch, Q queries, N images of the bank, S pixels of all levels of an image, H heads, D channels of a head,
L levels, P points, K slots of a list of images, A rows of the age tables. Sizes are (h, w); points and offsets are
(x, y).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import mmfs.autograd  # noqa: F401  (registers torch.ops.mmfs)
from mmfs import compiled, cuda, derivatives, dispatch, eager
from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
)
from mmfs.points_of_levels import with_equal_points
from mmfs.reference import LARGEST_FLOAT32, accumulation_dtype, mmfs_attention_reference, ms_deform_attn_reference

Backend = Literal["reference", "cpu", "cuda"]
Sizes = Sequence[tuple[int, int]] | Sequence[Sequence[int]] | Tensor

FLOATING_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sizes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    num_points: Sequence[int] | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021, Eq. 3, between its projections).

    A location is the same convention as `grid_sample(align_corners=False, padding_mode="zeros")`: 0 and 1 are the outer
    edges of a level, pixel centres lie at (index + 0.5) / size, outside is zero. A location that is not finite samples
    zero and has zero gradient, and so does one that touches no pixel, whatever its weight. Sums are float32 for half
    types. All floating tensors get gradients. Second derivatives (gradient penalties), tangents (`torch.func.jvp`,
    `forward_ad`) and torch.func's other transforms are there too: what the kernels do not compute is a derivative of
    the reference, with its time and memory (mmfs/derivatives.py).

    The arguments are those of Deformable-DETR's `ms_deform_attn_core_pytorch`. Its CUDA function takes
    `level_start_index` and `im2col_step` too, which are not needed here.

    Args:
        value: [B, S, H, D], float64, float32, bfloat16 or float16; pixels level by level, each level row by row.
        spatial_shapes: (h, w) of the L levels. An int tensor [L, 2] is read on the host: under torch.compile and
            torch.export give a sequence, whose sizes may be symbolic.
        sampling_locations: [B, Q, H, L, P, 2], (x, y) in [0, 1]; float32 also for half values.
        attention_weights: [B, Q, H, L, P]; need not sum to 1.
        num_points: of each level, where they differ (D-FINE: [3, 6, 3]). The samples of a head are then listed level
            after level: sampling_locations is [B, Q, H, K, 2] and attention_weights [B, Q, H, K], K their sum.
        backend: "reference" (plain PyTorch), "cpu" (the compiled kernel; PyTorch's
            `embedding_bag` where `why_not_compiled` gives a reason), "cuda", or None: what suits value's device, as
            `explain` tells. "cuda" never falls back.

    Returns:
        [B, Q, H*D], dtype of value.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or backend.
    """
    arguments = checked_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights, num_points)
    if choose(backend, value) == "reference":
        return ms_deform_attn_reference(arguments)
    if not dispatch.is_needed((value, arguments.sampling_locations, arguments.attention_weights)):
        return eager.ms_deform_attn(arguments)
    if derivatives.computes_tangents():
        return derivatives.ms_deform_attn(*arguments)
    out: Tensor = torch.ops.mmfs.ms_deform_attn(*arguments)
    return out


def mmfs_attention(
    value: Tensor,
    spatial_shapes: Sizes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor | None = None,
    *,
    offset_table: Tensor | None = None,
    logit_table: Tensor | None = None,
    null_logit: float | None = 0.0,
    null_value: Tensor | None = None,
    image_indices: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Multi-image, multi-scale deformable attention (MM-Interleaved, 2024, Eq. 4, between its projections).

    A query sees the images first <= m < last of the bank; the age of image m is r = last - m, 1 for the newest.

        location = reference_point + sampling_offset + offset_table[r - 1]     the same on every level
        logit    = attention_logit + logit_table[r - 1]
        weight   = exp(logit) / (exp(null_logit) + sum of exp(logit) over visible images, levels, points)
        out      = sum of weight * bilinear(value[m, level], location) + weight of null * null_value

    Images older than the tables take their last row. Sampling is as in `ms_deform_attn`. A query that sees no image
    gets exactly null_value, or zero. All floating tensors get gradients; other derivatives as in `ms_deform_attn`.

    With image_indices in place of visible, a query sees any images, each at a point of its own: cameras that look at
    one place, images that a search found. Entry k of its list, 0 to K - 1, is the image image_indices[b, q, k] with

        location = reference_point[k, level, point] + sampling_offset[level, point] + offset_table[k, level, point]
        logit    = attention_logit + logit_table[k]

    and the softmax is over all entries. So a row of the tables belongs to a slot, not to an image: put what should get
    row k into slot k (camera k, the k-th best of a search, the k-th newest). -1 is a slot without an image, anywhere in
    the list; it costs next to nothing, and the other slots keep their rows. An image that is listed twice is two
    entries. The range [first, last) is the list last - 1, ..., first.

    Args:
        value: [N, S, H, D], the bank, float64, float32, bfloat16 or float16; pixels level by level, each level row by
            row. [total pixels, H, D] when the images differ in size: image by image, then level by level.
        spatial_shapes: (h, w) of the L levels of all images, or an int tensor [N, L, 2] when they differ. An int tensor
            [L, 2] is read on the host: under torch.compile and torch.export give a sequence.
        reference_points: broadcastable to [B, Q, 2], (x, y) in [0, 1]; float32 also for half values. With image_indices
            [B, Q, K, 2] or, where they differ by level or by sampled point, [B, Q, K, L, P, 2]; any size may be 1.
        sampling_offsets: [B, Q, H, P, 2], (x, y) in units of the image's width and height. With image_indices they may
            differ by level, [B, Q, H, L, P, 2].
        attention_logits: [B, Q, H, L, P].
        visible: int [B, Q, 2], first and one past the last visible image; equal for none.
        image_indices: int [B, Q, K], in place of visible: images of the bank, 0 to N - 1, or -1 for no image.
        offset_table: [A, H, P, 2], added to the offsets by age or slot; [A, H, L, P, 2] with offsets by level.
        logit_table: [A, H, L, P], added to the logits by age or slot.
        null_logit: logit of the share that goes to no image (0 in the released model), a finite number of the dtype of
            accumulation; None: plain softmax (paper).
        null_value: [H, D], what that share gets; None: zero.
        backend: "reference" (plain PyTorch), "cpu" (the compiled kernel; PyTorch's
            `embedding_bag` where `why_not_compiled` gives a reason), "cuda", or None: what suits value's device, as
            `explain` tells. "cuda" never falls back.

    Returns:
        [B, Q, H*D], dtype of value.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or backend; images beyond the bank in visible or
            image_indices. The CUDA kernels do not wait to look at numbers: there, a query with such images gets NaN,
            and all of the output is NaN if the sizes of images that differ do not add up to the pixels of value.
    """
    sizes, image_shapes = sizes_of(spatial_shapes)
    arguments = MMFSAttentionArguments(
        value,
        sizes,
        reference_points,
        sampling_offsets,
        attention_logits,
        visible,
        offset_table,
        logit_table,
        null_logit,
        null_value,
        image_shapes,
        image_indices,
    )
    is_eager = not dispatch.is_needed((value, *arguments[2:8], null_value, image_shapes, image_indices))
    if is_eager and backend in (None, "cpu") and (read := eager.mmfs_attention_in_c(arguments)) is not None:
        return read
    arguments = checked_mmfs_attention(arguments)
    if choose(backend, value) == "reference":
        return mmfs_attention_reference(arguments)
    if is_eager:
        return eager.mmfs_attention(arguments)
    if derivatives.computes_tangents():
        return derivatives.mmfs_attention(*arguments)
    out: Tensor
    if will_be_differentiated(arguments):
        out, _ = torch.ops.mmfs.mmfs_attention_with_lse(*arguments)
    else:
        out = torch.ops.mmfs.mmfs_attention(*arguments)
    return out


def will_be_differentiated(arguments: Sequence[object]) -> bool:
    """Not in a program that is being exported: it computes outputs, and its parameters keep their requires_grad."""
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return False
    return any(isinstance(part, Tensor) and part.requires_grad for part in arguments)


def why_not_cuda(value: Tensor) -> str | None:
    """Why a call with this value cannot use the CUDA kernels; None if it can.

    Its device and dtype count, its shape does not: `mmfs.why_not_cuda(torch.empty(0, device="cuda"))` will do.
    """
    return cuda.why_not(value)


def why_not_compiled(value: Tensor) -> str | None:
    """Why a call with this value cannot use the compiled CPU kernel; None if it can.

    Its device and dtype count, its shape does not: `mmfs.why_not_compiled(torch.empty(0))` will do.
    """
    return compiled.why_not(value)


def choose(backend: str | None, value: Tensor) -> str:
    """ "reference", or "operator": the registered op, which chooses by value's device (autograd.implementation)."""
    if backend == "cuda" and (reason := why_not_cuda(value)) is not None:
        raise ValueError(f"backend='cuda' cannot be used: {reason}. Leave backend out to let mmfs choose.")
    if backend == "cpu" and value.device.type != "cpu":
        raise ValueError(f"backend='cpu' but value is on {value.device}. Move the tensors, or leave backend out.")
    check_backend(backend)
    return "reference" if backend == "reference" else "operator"


# ---------------------------------------------------------------------------------------------------------------------
# Checks of the arguments


def check_backend(backend: object) -> None:
    if backend not in (None, "reference", "cpu", "cuda"):
        raise ValueError(f"backend is {backend!r}. Expected None, 'reference', 'cpu' or 'cuda'.")


def checked_ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sizes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    num_points: Sequence[int] | None,
) -> MSDeformAttnArguments:
    """The arguments as the operator takes them, with as many points on every level.

    Raises:
        ValueError, TypeError: as `ms_deform_attn`.
    """
    sizes = shared_sizes(spatial_shapes)
    if num_points is not None:
        check_floating({"sampling_locations": sampling_locations, "attention_weights": attention_weights})
        sampling_locations, attention_weights = with_equal_points(
            sampling_locations, attention_weights, num_points, num_levels=len(sizes) // 2
        )
    floating = {"value": value, "sampling_locations": sampling_locations, "attention_weights": attention_weights}
    check_floating(floating)
    if value.ndim != 4:
        raise ValueError(f"value has shape {shape(value)}. Expected [B, S, H, D].")
    batch, num_pixels, num_heads, _ = value.shape
    num_levels = len(sizes) // 2
    if sampling_locations.ndim != 6:
        raise ValueError(f"sampling_locations has shape {shape(sampling_locations)}. Expected [B, Q, H, L, P, 2].")
    check_device(value, floating)
    check_pixels(sizes, num_pixels)
    per_query = (batch, sampling_locations.shape[1], num_heads, num_levels, sampling_locations.shape[4])
    letters = "where B and H are value's, L the number of spatial_shapes"
    check_shape("sampling_locations", sampling_locations, (*per_query, 2), f"[B, Q, H, L, P, 2], {letters}")
    check_shape("attention_weights", attention_weights, per_query, f"[B, Q, H, L, P], {letters}")
    return MSDeformAttnArguments(value, sizes, sampling_locations, attention_weights)


def checked_mmfs_attention(arguments: MMFSAttentionArguments) -> MMFSAttentionArguments:
    """The arguments as the operator takes them, with all their axes (see MMFSAttentionArguments); null_logit a float.

    Raises:
        ValueError, TypeError: as `mmfs_attention`.
    """
    optional = MMFSAttentionArguments._field_defaults
    floating = {
        name: tensor
        for name in MMFSAttentionGradients._fields
        if (tensor := getattr(arguments, name)) is not None or name not in optional
    }
    check_floating(floating)
    value, attention_logits = arguments.value, arguments.attention_logits
    if (image_shapes := arguments.image_shapes) is not None:
        check_shape("spatial_shapes", image_shapes, (*image_shapes.shape[:2], 2), "[N, L, 2]")
        if image_shapes.shape[1] == 0:
            raise ValueError(
                f"spatial_shapes has shape {shape(image_shapes)}. Expected [N, L, 2] with at least one level."
            )
        check_device(value, {"spatial_shapes": image_shapes})
        if value.ndim != 3:
            raise ValueError(
                f"value has shape {shape(value)}. Expected [total pixels, H, D], because spatial_shapes "
                f"{shape(image_shapes)} gives each image its own sizes; for one size use spatial_shapes [L, 2]."
            )
        num_levels = image_shapes.shape[1]
    else:
        if value.ndim != 4:
            raise ValueError(
                f"value has shape {shape(value)}. Expected [N, S, H, D]; when images differ in size, give "
                "[total pixels, H, D] and spatial_shapes [N, L, 2]."
            )
        check_pixels(arguments.spatial_shapes, value.shape[1])
        num_levels = len(arguments.spatial_shapes) // 2

    num_heads, dim = value.shape[-2:]
    if attention_logits.ndim != 5:
        raise ValueError(f"attention_logits has shape {shape(attention_logits)}. Expected [B, Q, H, L, P].")
    batch, num_queries, num_points = attention_logits.shape[0], attention_logits.shape[1], attention_logits.shape[4]
    letters = "where H is value's, L the number of levels, and B, Q, P those of attention_logits"
    logits_shape = (batch, num_queries, num_heads, num_levels, num_points)
    check_shape("attention_logits", attention_logits, logits_shape, f"[B, Q, H, L, P], {letters}")
    if (arguments.visible is None) == (arguments.image_indices is None):
        raise ValueError(
            f"{'neither' if arguments.visible is None else 'both'} of visible and image_indices given. Expected "
            "visible [B, Q, 2], a range of images for each query, or image_indices [B, Q, K], a list."
        )
    integers: dict[str, Tensor]
    if arguments.image_indices is not None:
        arguments = with_lists(arguments)
        integers = {"image_indices": check_integer("image_indices", arguments.image_indices)}
    else:
        offsets_shape = (batch, num_queries, num_heads, num_points, 2)
        check_shape("sampling_offsets", arguments.sampling_offsets, offsets_shape, f"[B, Q, H, P, 2], {letters}")
        integers = {"visible": check_integer("visible", arguments.visible)}
        check_shape("visible", integers["visible"], (batch, num_queries, 2), f"[B, Q, 2], {letters}")
        check_points(arguments.reference_points, batch, num_queries)
        check_table("offset_table", arguments.offset_table, (num_heads, num_points, 2), "[A, H, P, 2]")
        arguments = arguments._replace(reference_points=arguments.reference_points.expand(batch, num_queries, 2))
    check_table("logit_table", arguments.logit_table, (num_heads, num_levels, num_points), "[A, H, L, P]")
    if arguments.null_value is not None:
        check_shape("null_value", arguments.null_value, (num_heads, dim), "[H, D] of value")
    check_device(value, floating | integers)
    null_logit = arguments.null_logit
    if null_logit is not None and not isinstance(null_logit, int | float):
        raise TypeError(f"null_logit is a {type(null_logit).__name__}. Expected a number, or None for a plain softmax.")
    check_null_logit(null_logit, value.dtype)
    return arguments._replace(null_logit=None if null_logit is None else float(null_logit))


def with_lists(arguments: MMFSAttentionArguments) -> MMFSAttentionArguments:
    """The arguments of a call with image_indices, whose logits are checked: points, offsets and table with all axes.

    Raises:
        ValueError, TypeError: as `mmfs_attention`.
    """
    batch, num_queries, num_heads, num_levels, num_points = arguments.attention_logits.shape
    images = check_integer("image_indices", arguments.image_indices)
    if images.ndim != 3 or images.shape[:2] != (batch, num_queries):
        raise ValueError(
            f"image_indices has shape {shape(images)}. Expected [B, Q, K] = [{batch}, {num_queries}, K], a list of K "
            "images or -1 for each query, where B and Q are those of attention_logits."
        )
    num_slots = images.shape[2]
    points = arguments.reference_points
    if points.ndim == 4:
        points = points[:, :, :, None, None]
    all_points = (batch, num_queries, num_slots, num_levels, num_points, 2)
    if points.ndim != 6 or points.shape[5] != 2 or not broadcasts(points.shape, all_points):
        raise ValueError(
            f"reference_points has shape {shape(arguments.reference_points)}. Expected [B, Q, K, 2] or [B, Q, K, L, P, "
            f"2], or 1 in place of any but the last, with [B, Q, K, L, P, 2] = {list(all_points)}, where K is that of "
            "image_indices."
        )
    offsets, table = arguments.sampling_offsets, arguments.offset_table
    if offsets.ndim == 5:
        offsets = offsets[:, :, :, None]
    by_level = offsets.ndim == 6 and offsets.shape[3] != 1
    expected = (batch, num_queries, num_heads, num_levels if by_level else 1, num_points, 2)
    if offsets.shape != expected:
        raise ValueError(
            f"sampling_offsets has shape {shape(arguments.sampling_offsets)}. Expected [B, Q, H, P, 2] or [B, Q, H, L, "
            f"P, 2], with [B, Q, H, L, P, 2] = {[batch, num_queries, num_heads, num_levels, num_points, 2]}."
        )
    if table is not None and table.ndim == 5:
        check_table("offset_table", table, expected[2:], "[A, H, L, P, 2], or [A, H, P, 2] for offsets of all levels")
    elif table is not None:
        check_table("offset_table", table, (num_heads, num_points, 2), "[A, H, P, 2]")
        table = table[:, :, None].expand(-1, -1, expected[3], -1, -1)
    points = points.expand(batch, num_queries, num_slots, -1, -1, -1)
    if num_slots == 0:  # one without an image instead: implementations know a list by its address
        images = images.new_full((batch, num_queries, 1), -1)
        points = F.pad(points, (0,) * 6 + (0, 1))
    return arguments._replace(
        reference_points=points, sampling_offsets=offsets, offset_table=table, image_indices=images
    )


def sizes_of(spatial_shapes: Sizes) -> tuple[list[int], Tensor | None]:
    """Sizes of the levels as h, w, h, w, ... or, where images differ, none of these but an int tensor [N, L, 2]."""
    if isinstance(spatial_shapes, Tensor) and spatial_shapes.ndim == 3:
        return [], check_integer("spatial_shapes", spatial_shapes)
    return shared_sizes(spatial_shapes), None


def shared_sizes(spatial_shapes: Sizes) -> list[int]:
    """Sizes of the levels as h, w, h, w, ..."""
    if isinstance(spatial_shapes, Tensor):
        if spatial_shapes.ndim != 2 or spatial_shapes.shape[1] != 2:
            raise ValueError(
                f"spatial_shapes has shape {shape(spatial_shapes)}. Expected [L, 2], (h, w) of each level."
            )
        pairs: Sequence[Sequence[int]] = check_integer("spatial_shapes", spatial_shapes).tolist()
        if torch.compiler.is_exporting() and any(isinstance(side, torch.SymInt) for pair in pairs for side in pair):
            raise TypeError(
                "spatial_shapes is a tensor that the exported program computes, and nothing says what it will hold. "
                "Expected a sequence of (h, w), such as [(features.shape[2], features.shape[3])]."
            )
    else:
        pairs = spatial_shapes
    if not isinstance(pairs, Sequence):
        raise TypeError(
            f"spatial_shapes is a {type(pairs).__name__}. Expected a sequence of (h, w), or an int tensor [L, 2]."
        )
    # Asked first, because it is what a small call can afford.
    if pairs and all(type(pair) is tuple and len(pair) == 2 for pair in pairs):
        sizes = [side for pair in pairs for side in pair if type(side) is int and side > 0]
        if len(sizes) == 2 * len(pairs):
            return sizes
    # tuple and list are sequences too: named, because an abstract class is slow to ask.
    fits = len(pairs) > 0 and all(isinstance(pair, (tuple, list, Sequence)) and len(pair) == 2 for pair in pairs)
    sizes = [side if type(side) is int else as_int(side) for pair in pairs for side in pair] if fits else []
    if not fits or any(side < 1 for side in sizes):
        raise ValueError(f"spatial_shapes is {pairs}. Expected at least one (h, w) with sides of at least 1.")
    return sizes


def as_int(side: int) -> int:
    if isinstance(side, torch.SymInt):
        return side  # a size that may vary in the graph that is being traced
    try:
        return operator.index(side)  # int() would cut a float
    except TypeError:
        raise TypeError(f"spatial_shapes holds {side!r}, a {type(side).__name__}. Expected ints.") from None


def check_pixels(sizes: Sequence[int], num_pixels: int) -> None:
    expected = sum(map(operator.mul, sizes[::2], sizes[1::2]))
    if num_pixels != expected:
        pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
        raise ValueError(
            f"spatial_shapes {pairs} describe {expected} pixels but value holds {num_pixels}. Expected value's second "
            "dimension to be the sum of h*w over the levels."
        )


def check_null_logit(null_logit: float | None, value_dtype: torch.dtype) -> None:
    """Raises ValueError if a null logit is no finite number of the type of accumulation: its softmax would be NaN."""
    if null_logit is None or abs(null_logit) <= LARGEST_FLOAT32:
        return
    dtype = accumulation_dtype(value_dtype)
    if not abs(null_logit) <= torch.finfo(dtype).max:  # the comparison is false for NaN
        raise ValueError(
            f"null_logit is {null_logit}, which is no finite {dtype}, the type in which a softmax is computed here. "
            "Expected a finite number, or None for a softmax without null."
        )


def check_points(reference_points: Tensor, batch: int, num_queries: int) -> None:
    expected = (batch, num_queries, 2)
    if reference_points.shape[-1:] != (2,) or not broadcasts(reference_points.shape, expected):
        raise ValueError(
            f"reference_points has shape {shape(reference_points)}. Expected one that broadcasts to [B, Q, 2] = "
            f"{list(expected)}."
        )


def broadcasts(given: Sequence[int], expected: Sequence[int]) -> bool:
    """Can a tensor of shape `given` be expanded to `expected`?"""
    # Compared with the full size first: a symbolic size of torch.export stays symbolic.
    pairs = zip(reversed(given), reversed(expected), strict=False)
    return len(given) <= len(expected) and all(size == full or size == 1 for size, full in pairs)


def check_table(name: str, table: Tensor | None, of_one_age: tuple[int, ...], letters: str) -> None:
    if table is None:
        return
    if table.ndim == 0 or table.shape[0] < 1:
        raise ValueError(f"{name} has shape {shape(table)}. Expected {letters} with at least one age.")
    check_shape(name, table, (table.shape[0], *of_one_age), letters)


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], letters: str) -> None:
    if tensor.shape != expected:
        raise ValueError(f"{name} has shape {shape(tensor)}. Expected {list(expected)}, {letters}.")


def check_integer(name: str, tensor: Tensor | None) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise no_tensor(name, tensor)
    if tensor.layout is not torch.strided:
        raise wrong_layout(name, tensor)
    if tensor.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} is {tensor.dtype}. Expected torch.int64 or torch.int32.")
    return tensor


def check_floating(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise no_tensor(name, tensor)
        if tensor.layout is not torch.strided:
            raise wrong_layout(name, tensor)
        if tensor.dtype not in FLOATING_TYPES:
            *others, last = FLOATING_TYPES
            raise TypeError(
                f"{name} is {tensor.dtype}. Expected {', '.join(map(str, others))} or {last}: call {name}.float()."
            )


def wrong_layout(name: str, tensor: Tensor) -> TypeError:
    return TypeError(f"{name} has the layout {tensor.layout}. Expected torch.strided: call {name}.to_dense().")


def no_tensor(name: str, given: object) -> TypeError:
    return TypeError(f"{name} is a {type(given).__name__}. Expected a tensor.")


def check_device(value: Tensor, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.device != value.device:
            raise ValueError(f"{name} is on {tensor.device} but value is on {value.device}. Expected one device.")


def shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
