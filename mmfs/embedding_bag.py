"""Both ops and their gradients as sparse sums of rows: the implementation that needs no compiled kernel.

A bilinear sample is a weighted sum of four rows of the table [R*H, D] of all pixels, so one head of one query is one
bag of `embedding_bag`. The gradient of the table is the transposed sum: entries sorted by row, and for each row a bag of
output gradients. The samples themselves are never held, except a chunk of them for the gradients of the weights.

Letters as in reference.py, and: T = B*Q queries, C queries of one chunk, E triples (query, head, image) of one chunk in
this order, K = L*P*4 corners of one triple. A bag is a (query, head); corners of a bag lie side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfs.reference import count_visible, image_planes, of_age, softmax_with_null, working_dtype

CHUNK_CORNERS = 1 << 17
"""Corners computed at a time: their indices and weights stay in the cache, and memory does not grow with queries."""


class Corners(NamedTuple):
    """The four pixels around every sample of E triples."""

    rows: Tensor  # int [E, K], rows of the table
    touched: Tensor  # bool [E, L, P, 2, 2], (upper, lower) x (left, right): is the pixel inside the level
    shares: Tensor  # [E, L, P, 2, 2], bilinear weights, 0 where not touched
    right: Tensor  # [E, L, P], distance from the left pixels, in pixels
    below: Tensor  # [E, L, P], distance from the upper pixels
    size: Tensor  # [E, L, 1, 2], width and height of the levels


class Chunk(NamedTuple):
    """C queries with what they sample."""

    queries: slice  # of T
    corners: Corners
    weights: Tensor  # [E, L, P], attention weights
    bags: Tensor  # int [E], bag of each triple, counted from query 0
    starts: Tensor  # int [C*H], first corner of each bag


class Entries(NamedTuple):
    """One line for each corner: the row of the table, the bag of output channels, and the weight between them."""

    rows: Tensor
    bags: Tensor
    weights: Tensor


class Attention(NamedTuple):
    """Softmax of C queries. Triples of images that a query does not see are among these, with weight 0."""

    weights: Tensor  # [C, H, M, L, P]
    null_weight: Tensor  # [C, H]
    ages: Tensor  # int [M]
    triples: Tensor | None  # int [E], which of the C*H*M triples are seen; None: all


# ---------------------------------------------------------------------------------------------------------------------
# The classic op


def ms_deform_attn_forward(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`reference.ms_deform_attn_reference`, without a graph."""
    table = pixel_table(value)
    batch, num_queries, num_heads = attention_weights.shape[:3]
    out = table.new_empty(batch * num_queries * num_heads, value.shape[-1])  # [T*H, D]
    for chunk in classic_chunks(value, spatial_shapes, sampling_locations, attention_weights):
        out[bags_of(chunk.queries, num_heads)] = sum_of_rows(table, chunk)
    return out.view(batch, num_queries, num_heads * value.shape[-1]).to(value.dtype)


def ms_deform_attn_backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value (without elements unless needs_value), sampling_locations and attention_weights."""
    table = pixel_table(value)
    num_heads = value.shape[2]
    grad = grad_out.reshape(-1, value.shape[-1]).to(table.dtype)  # [T*H, D]
    grad_locations = grad.new_empty(sampling_locations.flatten(0, 1).shape)  # [T, H, L, P, 2]
    grad_weights = grad.new_empty(attention_weights.flatten(0, 1).shape)
    entries: list[Entries] = []
    for chunk in classic_chunks(value, spatial_shapes, sampling_locations, attention_weights):
        dots, slopes = sample_gradients(table, chunk, grad)
        grad_weights[chunk.queries] = dots.unflatten(0, (-1, num_heads))
        grad_locations[chunk.queries] = (slopes * chunk.weights[..., None]).unflatten(0, (-1, num_heads))
        if needs_value:
            entries.append(entries_of(chunk, table))
    return (
        table_gradient(entries, grad, value) if needs_value else value.new_empty(0),
        grad_locations.view_as(sampling_locations).to(sampling_locations.dtype),
        grad_weights.view_as(attention_weights).to(attention_weights.dtype),
    )


def classic_chunks(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> Iterator[Chunk]:
    """Row b of the batch samples image b: a triple is a bag."""
    batch, num_queries, num_heads, num_levels, num_points = attention_weights.shape
    working = working_dtype(value)
    planes = image_planes(value, spatial_shapes)  # [B, L, 3]
    for queries in chunks_of(batch * num_queries, num_heads * num_levels * num_points * 4):
        query = torch.arange(queries.start, queries.stop, device=value.device)
        rows = query // num_queries, query % num_queries  # indexing copies a chunk, whatever the strides
        locations = sampling_locations[rows].to(working).flatten(0, 1)  # [E, L, P, 2]
        weights = attention_weights[rows].to(working).flatten(0, 1)  # [E, L, P]
        bags = torch.arange(queries.start * num_heads, queries.stop * num_heads, device=value.device)
        corners = find_corners(locations, planes[bags // (num_heads * num_queries)], bags % num_heads, num_heads)
        starts = torch.arange(len(bags), device=value.device) * corners.rows.shape[1]
        yield Chunk(queries, corners, weights, bags, starts)


# ---------------------------------------------------------------------------------------------------------------------
# The multi-image op


def mmfs_attention_forward(
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
) -> Tensor:
    """`reference.mmfs_attention_reference`, without a graph. reference_points [B, Q, 2]."""
    table = pixel_table(value)
    batch, num_queries, num_heads = attention_logits.shape[:3]
    out = table.new_empty(batch * num_queries, num_heads, value.shape[-1])
    chunks = visible_chunks(
        value, spatial_shapes, reference_points, sampling_offsets, attention_logits, visible, offset_table, logit_table, null_logit
    )
    for chunk, attention in chunks:
        seen = sum_of_rows(table, chunk).view(-1, num_heads, value.shape[-1])
        if null_value is not None:
            seen = seen + attention.null_weight[..., None] * null_value.to(table.dtype)
        out[chunk.queries] = seen
    return out.view(batch, num_queries, num_heads * value.shape[-1]).to(value.dtype)


class MMFSGradients(NamedTuple):
    """Gradients of mmfs_attention's tensors; without elements where there was no tensor or no need."""

    value: Tensor
    reference_points: Tensor
    sampling_offsets: Tensor
    attention_logits: Tensor
    offset_table: Tensor
    logit_table: Tensor
    null_value: Tensor


def mmfs_attention_backward(
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
) -> MMFSGradients:
    """Gradients of `mmfs_attention_forward`; of value only if needs_value.

    With w the softmax weights, v the samples and g the gradient of the output: dL/dw = g.v, and through the softmax
    dL/dlogit = w (g.v - sum of w g.v over all entries, null among them).
    """
    table = pixel_table(value)
    num_heads, dim = attention_logits.shape[2], value.shape[-1]
    grad = grad_out.reshape(-1, dim).to(table.dtype)  # [T*H, D]

    def zeros_like(tensor: Tensor | None, flat: bool) -> Tensor:
        shape = (0,) if tensor is None else tensor.flatten(0, 1).shape if flat else tensor.shape
        return grad.new_zeros(shape)

    grad_points = zeros_like(reference_points, flat=True)  # [T, 2]
    grad_offsets = zeros_like(sampling_offsets, flat=True)  # [T, H, P, 2]
    grad_logits = zeros_like(attention_logits, flat=True)  # [T, H, L, P]
    grad_offset_table = zeros_like(offset_table, flat=False)
    grad_logit_table = zeros_like(logit_table, flat=False)
    grad_null_value = zeros_like(null_value, flat=False)
    entries: list[Entries] = []
    chunks = visible_chunks(
        value, spatial_shapes, reference_points, sampling_offsets, attention_logits, visible, offset_table, logit_table, null_logit
    )
    for chunk, attention in chunks:
        dots, slopes = sample_gradients(table, chunk, grad)
        location_slopes = (slopes * chunk.weights[..., None]).sum(1)  # [E, P, 2]: all levels share a location
        dots = all_triples(dots, attention)  # [C, H, M, L, P]
        location_slopes = all_triples(location_slopes, attention)  # [C, H, M, P, 2]

        grad_here = grad[bags_of(chunk.queries, num_heads)].view(-1, num_heads, dim)  # [C, H, D]
        mean_dot = (attention.weights * dots).sum((2, 3, 4))  # [C, H]
        if null_value is not None:
            mean_dot = mean_dot + attention.null_weight * (grad_here * null_value.to(grad.dtype)).sum(-1)
            grad_null_value += torch.einsum("ch,chd->hd", attention.null_weight, grad_here)
        logit_slopes = attention.weights * (dots - mean_dot[..., None, None, None])  # [C, H, M, L, P]

        grad_points[chunk.queries] = location_slopes.sum((1, 2, 3))
        grad_offsets[chunk.queries] = location_slopes.sum(2)
        grad_logits[chunk.queries] = logit_slopes.sum(2)
        for table_grad, slopes_of_age in ((grad_offset_table, location_slopes), (grad_logit_table, logit_slopes)):
            if table_grad.numel():
                rows = (attention.ages - 1).clamp(max=table_grad.shape[0] - 1)
                table_grad.index_add_(0, rows, slopes_of_age.sum(0).transpose(0, 1))
        if needs_value:
            entries.append(entries_of(chunk, table))

    def finished(grad_tensor: Tensor, tensor: Tensor | None) -> Tensor:
        return grad_tensor if tensor is None else grad_tensor.view(tensor.shape).to(tensor.dtype)

    return MMFSGradients(
        table_gradient(entries, grad, value) if needs_value else value.new_empty(0),
        finished(grad_points, reference_points),
        finished(grad_offsets, sampling_offsets),
        finished(grad_logits, attention_logits),
        finished(grad_offset_table, offset_table),
        finished(grad_logit_table, logit_table),
        finished(grad_null_value, null_value),
    )


def visible_chunks(
    value: Tensor,
    spatial_shapes: Sequence[int] | Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    visible: Tensor,
    offset_table: Tensor | None,
    logit_table: Tensor | None,
    null_logit: float | None,
) -> Iterator[tuple[Chunk, Attention]]:
    """Chunks of queries in order, each with the samples of the images it sees and with its softmax."""
    batch, num_queries, num_heads, num_levels, num_points = attention_logits.shape
    working = working_dtype(value)
    planes = image_planes(value, spatial_shapes)  # [N, L, 3]
    num_visible = count_visible(visible, planes.shape[0]).flatten()  # [T]
    last = visible[..., 1].flatten().long()
    most = int(num_visible.max()) if num_visible.numel() else 0
    for queries in chunks_of(len(last), num_heads * max(most, 1) * num_levels * num_points * 4):
        query = torch.arange(queries.start, queries.stop, device=value.device)
        rows = query // num_queries, query % num_queries
        num_seen = num_visible[queries]
        ages = torch.arange(1, int(num_seen.max()) + 1, device=value.device)  # [M]
        seen = ages <= num_seen[:, None]  # [C, M]
        triples = None
        if not bool(seen.all()):
            triples = seen[:, None].expand(-1, num_heads, -1).flatten().nonzero().squeeze(1)

        logits = attention_logits[rows].to(working)[:, :, None].expand(-1, -1, len(ages), -1, -1)  # [C, H, M, L, P]
        if logit_table is not None:
            logits = logits + of_age(logit_table.to(working), ages).transpose(0, 1)
        logits = logits.masked_fill(~seen[:, None, :, None, None], -torch.inf)
        weights, null_weight = (part[0] for part in softmax_with_null(logits[None], null_logit))
        attention = Attention(weights, null_weight, ages, triples)

        offsets = sampling_offsets[rows].to(working)[:, :, None]  # [C, H, 1, P, 2]
        if offset_table is not None:
            offsets = offsets + of_age(offset_table.to(working), ages).transpose(0, 1)
        locations = reference_points[rows].to(working)[:, None, None, None] + offsets  # [C, H, 1 or M, P, 2]
        locations = locations.expand(-1, -1, len(ages), -1, -1)

        triple = torch.arange(len(num_seen) * num_heads * len(ages), device=value.device) if triples is None else triples
        bag = triple // max(len(ages), 1)  # of this chunk
        image = (last[queries, None] - ages).flatten()[bag // num_heads * len(ages) + triple % max(len(ages), 1)]
        corners = find_corners(
            seen_triples(locations, attention)[:, None], planes[image], bag % num_heads, num_heads
        )
        triples_of_bag = num_seen.repeat_interleave(num_heads)  # [C*H]
        starts = (triples_of_bag.cumsum(0) - triples_of_bag) * corners.rows.shape[1]
        bags = bag + queries.start * num_heads
        yield Chunk(queries, corners, seen_triples(weights, attention), bags, starts), attention


def seen_triples(of_all: Tensor, attention: Attention) -> Tensor:
    """[C, H, M, ...] -> [E, ...]."""
    flat = of_all.flatten(0, 2)
    return flat if attention.triples is None else flat[attention.triples]


def all_triples(of_seen: Tensor, attention: Attention) -> Tensor:
    """[E, ...] -> [C, H, M, ...], 0 where a query does not see the image."""
    if attention.triples is not None:
        flat = of_seen.new_zeros(attention.weights.shape[:3].numel(), *of_seen.shape[1:])
        of_seen = flat.index_copy_(0, attention.triples, of_seen)
    return of_seen.view(*attention.weights.shape[:3], *of_seen.shape[1:])


# ---------------------------------------------------------------------------------------------------------------------
# Rows and their sums


def pixel_table(value: Tensor) -> Tensor:
    """[..., H, D] -> [R*H, D], without a copy if value is contiguous and not of a half type."""
    return value.reshape(-1, value.shape[-1]).to(working_dtype(value))


def chunks_of(num_queries: int, corners_of_query: int) -> Iterator[slice]:
    """Split T queries so that a chunk has about CHUNK_CORNERS corners."""
    step = max(1, CHUNK_CORNERS // max(corners_of_query, 1))
    for start in range(0, num_queries, step):
        yield slice(start, min(start + step, num_queries))


def bags_of(queries: slice, num_heads: int) -> slice:
    return slice(queries.start * num_heads, queries.stop * num_heads)


def find_corners(locations: Tensor, planes: Tensor, heads: Tensor, num_heads: int) -> Corners:
    """Which rows a sample sums, and how.

    Args:
        locations: [E, L or 1, P, 2], (x, y), 0 to 1 across the level.
        planes: int [E, L, 3]: height, width, first pixel.
        heads: int [E].
        num_heads: H.
    """
    height, width, first_pixel = planes[..., None].unbind(2)  # each [E, L, 1]
    size = torch.stack([width, height], dim=-1).to(locations.dtype)  # [E, L, 1, 2]
    x, y = (locations * size - 0.5).unbind(-1)  # [E, L, P]
    inside = (x > -1) & (x < size[..., 0]) & (y > -1) & (y < size[..., 1])  # False for NaN
    x = torch.where(inside, x, 0.0)
    y = torch.where(inside, y, 0.0)
    left, top = x.floor(), y.floor()
    right, below = x - left, y - top

    has_left, has_right = left >= 0, left < size[..., 0] - 1
    has_top, has_bottom = (top >= 0) & inside, (top < size[..., 1] - 1) & inside
    touched = torch.stack([has_top & has_left, has_top & has_right, has_bottom & has_left, has_bottom & has_right], -1)
    shares = torch.stack([(1 - below) * (1 - right), (1 - below) * right, below * (1 - right), below * right], -1)

    # A corner outside moves onto one inside that the sample uses anyway: nothing foreign is read with weight 0.
    left, top = left.long(), top.long()
    column = left.clamp(min=0), torch.minimum(left + 1, width - 1)
    row = top.clamp(min=0) * width, torch.minimum(top + 1, height - 1) * width
    pixel = torch.stack([row[0] + column[0], row[0] + column[1], row[1] + column[0], row[1] + column[1]], -1)
    rows = (pixel + first_pixel[..., None]) * num_heads + heads[:, None, None, None]
    return Corners(
        rows.flatten(1),
        touched.unflatten(-1, (2, 2)),
        torch.where(touched, shares, 0.0).unflatten(-1, (2, 2)),
        right,
        below,
        size,
    )


def corner_weights(chunk: Chunk) -> Tensor:
    """Attention weight times bilinear share: [E, K]."""
    return (chunk.corners.shares * chunk.weights[..., None, None]).flatten(1)


def sum_of_rows(table: Tensor, chunk: Chunk) -> Tensor:
    """Weighted sum of the rows of each bag -> [C*H, D]."""
    rows, weights = chunk.corners.rows.flatten(), corner_weights(chunk).flatten()
    out = F.embedding_bag(rows, table, chunk.starts, mode="sum", per_sample_weights=weights)
    if bool(out.isfinite().all()):
        return out
    # A sample outside its level read some pixel with weight 0, and 0 * inf is NaN: read a row of zeros instead.
    rows = rows.masked_fill(~chunk.corners.touched.flatten(), table.shape[0])
    table = torch.cat([table, table.new_zeros(1, table.shape[1])])
    return F.embedding_bag(rows, table, chunk.starts, mode="sum", per_sample_weights=weights)


def sample_gradients(table: Tensor, chunk: Chunk, grad: Tensor) -> tuple[Tensor, Tensor]:
    """What the output gradient says about each sample.

    Args:
        grad: [T*H, D], gradient of the output.

    Returns:
        [E, L, P], its product with the sample, and [E, L, P, 2], the derivative of that with respect to the location.
    """
    corners = chunk.corners
    pixels = table[corners.rows]  # [E, K, D]
    dots = torch.bmm(grad[chunk.bags][:, None], pixels.transpose(1, 2))  # [E, 1, K]
    dots = torch.where(corners.touched, dots.view(corners.touched.shape), 0.0)  # [E, L, P, 2, 2]
    top_left, top_right, bottom_left, bottom_right = dots.flatten(-2).unbind(-1)  # each [E, L, P]
    slope_x = torch.lerp(top_right - top_left, bottom_right - bottom_left, corners.below)
    slope_y = torch.lerp(bottom_left - top_left, bottom_right - top_right, corners.right)
    return (dots * corners.shares).sum((-2, -1)), torch.stack([slope_x, slope_y], -1) * corners.size


def entries_of(chunk: Chunk, table: Tensor) -> Entries:
    """What the chunk adds to the gradient of the table."""
    rows, bags = chunk.corners.rows, chunk.bags[:, None].expand_as(chunk.corners.rows)
    small = max(table.shape[0], chunk.queries.stop * chunk.starts.numel()) < 2**31
    index = torch.int32 if small else torch.int64  # 32 bits sort in half the time
    return Entries(rows.flatten().to(index), bags.flatten().to(index), corner_weights(chunk).flatten())


def table_gradient(entries: Sequence[Entries], grad: Tensor, value: Tensor) -> Tensor:
    """Gradient of value: for each row of the table the weighted sum of grad [T*H, D] over its entries."""
    num_rows = value.shape[:-1].numel()
    if not entries:
        return torch.zeros_like(value, memory_format=torch.contiguous_format)
    rows, bags, weights = (torch.cat(parts) for parts in zip(*entries, strict=True))
    rows, order = rows.sort(stable=True)
    entries_of_row = torch.bincount(rows, minlength=num_rows)
    starts = (entries_of_row.cumsum(0) - entries_of_row).to(bags.dtype)
    sums = F.embedding_bag(bags[order], grad, starts, mode="sum", per_sample_weights=weights[order])
    return sums.view(value.shape).to(value.dtype)
