"""Both ops and their gradients as sparse sums of rows: the implementation that needs no compiled kernel.

A bilinear sample is a weighted sum of four rows of the table [total pixels * H, D], so one head of one query is one bag
of `embedding_bag`. The gradient of the table is the transposed sum: entries sorted by row, and for each row a bag of
output gradients. The pixels that are read are never held, except one chunk's for the gradients of the weights.

Letters as in reference.py, and: c queries of one chunk, e triples (query, head, image) of one chunk in this order.
A bag is a (query, head); its triples lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
)
from mmfs.reference import (
    accumulation_dtype,
    checked_image_indices,
    count_visible,
    image_planes,
    of_age,
    softmax_with_null,
)
from mmfs.without_output import check_numbers, zero_mmfs_attention_gradients, zero_ms_deform_attn_gradients

CHUNK_CORNERS = 1 << 18
"""Corners computed at a time: their indices and weights stay in the cache, and memory does not grow with queries."""


class Corner(NamedTuple):
    """One of the four pixels around every sample of e triples; each tensor is [e, L, P]."""

    rows: Tensor  # int, rows of the table
    shares: Tensor  # bilinear weights, 0 where not touched
    touched: Tensor  # bool: the sample lies inside and so does this pixel

    def factors(self, weights: Tensor) -> Tensor:
        """Attention weights [e, L, P] times the shares; 0 where not touched, whatever the weight."""
        return torch.where(self.touched, self.shares * weights, 0.0)


class Samples(NamedTuple):
    """Where the samples of e triples lie."""

    corners: tuple[Corner, Corner, Corner, Corner]  # upper left, upper right, lower left, lower right
    inside: Tensor  # bool [e, L, P]: any of these pixels is touched
    right: Tensor  # [e, L, P], distance from the left pixels, in pixels
    below: Tensor  # [e, L, P], distance from the upper pixels
    width: Tensor  # [e, L, 1]
    height: Tensor  # [e, L, 1]


class Chunk(NamedTuple):
    """c queries with what they sample."""

    queries: slice  # of B*Q
    samples: Samples
    weights: Tensor  # [e, L, P], attention weights
    bags: Tensor  # int [e], bag of each triple, counted from query 0
    starts: Tensor  # int [c*H], first sample of each bag


class Entries(NamedTuple):
    """One line for each corner: the row of the table, the bag of output channels, and the weight between them."""

    rows: Tensor
    bags: Tensor
    weights: Tensor


class Attention(NamedTuple):
    """Softmax of c queries. Triples of images that a query does not see are among these, with weight 0."""

    weights: Tensor  # [c, H, M, L, P]
    null_weight: Tensor  # [c, H]
    ages: Tensor  # int [M], 1, 2, ...
    triples: Tensor | None  # int [e], which of the c*H*M triples are seen; None: all


# ---------------------------------------------------------------------------------------------------------------------
# ms_deform_attn


def ms_deform_attn_forward(arguments: MSDeformAttnArguments) -> Tensor:
    """`reference.ms_deform_attn_reference`, without a graph."""
    value = arguments.value
    batch, num_queries, num_heads = arguments.attention_weights.shape[:3]
    if batch * num_queries * num_heads * value.shape[-1] == 0:
        return value.new_empty(batch, num_queries, num_heads * value.shape[-1])
    table = pixel_table(value)
    out = table.new_empty(batch * num_queries * num_heads, value.shape[-1])  # [B*Q*H, D]
    for chunk in ms_deform_attn_chunks(arguments):
        out[bags_of(chunk.queries, num_heads)] = sum_of_rows(table, chunk)
    return out.view(batch, num_queries, num_heads * value.shape[-1]).to(value.dtype)


def ms_deform_attn_backward(
    grad_out: Tensor, arguments: MSDeformAttnArguments, needs_value: bool
) -> MSDeformAttnGradients:
    """Gradients of `ms_deform_attn_forward`; of value only if needs_value."""
    value, _, sampling_locations, attention_weights = arguments
    if not grad_out.numel():
        return zero_ms_deform_attn_gradients(arguments, needs_value)
    table = pixel_table(value)
    num_heads = value.shape[2]
    grad = grad_out.reshape(-1, value.shape[-1]).to(table.dtype)  # [B*Q*H, D]
    grad_locations = grad.new_empty(sampling_locations.flatten(0, 1).shape)  # [B*Q, H, L, P, 2]
    grad_weights = grad.new_empty(attention_weights.flatten(0, 1).shape)
    entries: list[Entries] = []
    for chunk in ms_deform_attn_chunks(arguments):
        dots, slopes = sample_gradients(table, chunk, grad)
        grad_weights[chunk.queries] = dots.unflatten(0, (-1, num_heads))
        grad_locations[chunk.queries] = weighted_slopes(slopes, chunk).unflatten(0, (-1, num_heads))
        if needs_value:
            entries.append(entries_of(chunk, table))
    return MSDeformAttnGradients(
        table_gradient(entries, grad, value) if needs_value else value.new_empty(0),
        grad_locations.view_as(sampling_locations).to(sampling_locations.dtype),
        grad_weights.view_as(attention_weights).to(attention_weights.dtype),
    )


def ms_deform_attn_chunks(arguments: MSDeformAttnArguments) -> Iterator[Chunk]:
    """Row b of the batch samples image b: a triple is a bag."""
    value, spatial_shapes, sampling_locations, attention_weights = arguments
    batch, num_queries, num_heads, num_levels, num_points = attention_weights.shape
    dtype = accumulation_dtype(value.dtype)
    planes = image_planes(value, spatial_shapes)  # [B, L, 3]
    all_locations, all_weights = (
        sampling_locations.flatten(0, 1),
        attention_weights.flatten(0, 1),
    )  # [B*Q, H, L, P, ...]
    for queries in chunks_of(batch * num_queries, num_heads * num_levels * num_points * 4):
        locations = all_locations[queries].to(dtype).flatten(0, 1)  # [e, L, P, 2]
        weights = all_weights[queries].to(dtype).flatten(0, 1)  # [e, L, P]
        bags = torch.arange(queries.start * num_heads, queries.stop * num_heads, device=value.device)
        image = bags // (num_heads * num_queries)
        samples = find_corners(locations, planes.index_select(0, image), bags % num_heads, num_heads)
        starts = torch.arange(len(bags), device=value.device) * (num_levels * num_points)
        yield Chunk(queries, samples, weights, bags, starts)


# ---------------------------------------------------------------------------------------------------------------------
# mmfs_attention


def mmfs_attention_forward(arguments: MMFSAttentionArguments) -> Tensor:
    """`reference.mmfs_attention_reference`, without a graph."""
    value, null_value = arguments.value, arguments.null_value
    batch, num_queries, num_heads = arguments.attention_logits.shape[:3]
    if batch * num_queries * num_heads * value.shape[-1] == 0:
        check_numbers(arguments)
        return value.new_empty(batch, num_queries, num_heads * value.shape[-1])
    table = pixel_table(value)
    out = table.new_empty(batch * num_queries, num_heads, value.shape[-1])
    for chunk, attention in mmfs_attention_chunks(arguments):
        seen = sum_of_rows(table, chunk).view(-1, num_heads, value.shape[-1])
        # Without null_value times zero: a softmax over NaN makes NaN, also where all samples lie outside.
        seen = seen + attention.null_weight[..., None] * (0.0 if null_value is None else null_value.to(table.dtype))
        out[chunk.queries] = seen
    return out.view(batch, num_queries, num_heads * value.shape[-1]).to(value.dtype)


def mmfs_attention_backward(
    grad_out: Tensor, arguments: MMFSAttentionArguments, needs_value: bool
) -> MMFSAttentionGradients:
    """Gradients of `mmfs_attention_forward`; of value only if needs_value.

    With w the softmax weights, v the samples and g the gradient of the output: dL/dw = g.v, and through the softmax
    dL/dlogit = w (g.v - sum of w g.v over all entries, null among them).
    """
    value, null_value = arguments.value, arguments.null_value
    if not grad_out.numel():
        return zero_mmfs_attention_gradients(arguments, needs_value)
    table = pixel_table(value)
    num_heads, dim = arguments.attention_logits.shape[2], value.shape[-1]
    grad = grad_out.reshape(-1, dim).to(table.dtype)  # [B*Q*H, D]

    def zeros_like(tensor: Tensor | None, flat: bool) -> Tensor:
        shape = (0,) if tensor is None else tensor.flatten(0, 1).shape if flat else tensor.shape
        return grad.new_zeros(shape)

    grad_points = zeros_like(arguments.points_by_slot, flat=True)  # [B*Q, K or 1, L or 1, P or 1, 2]
    grad_offsets = zeros_like(arguments.offsets_by_level, flat=True)  # [B*Q, H, L or 1, P, 2]
    grad_logits = zeros_like(arguments.attention_logits, flat=True)  # [B*Q, H, L, P]
    grad_offset_table = zeros_like(arguments.offset_table_by_level, flat=False)
    grad_logit_table = zeros_like(arguments.logit_table, flat=False)
    grad_null_value = zeros_like(null_value, flat=False)
    entries: list[Entries] = []
    for chunk, attention in mmfs_attention_chunks(arguments):
        dots, slopes = sample_gradients(table, chunk, grad)
        location_slopes = weighted_slopes(slopes, chunk)  # [e, L, P, 2]
        if locations_are_shared(arguments):
            location_slopes = location_slopes.sum(1, keepdim=True)  # [e, 1, P, 2]
        dots = all_triples(dots, attention)  # [c, H, M, L, P]
        location_slopes = all_triples(location_slopes, attention)  # [c, H, M, L or 1, P, 2]

        grad_here = grad[bags_of(chunk.queries, num_heads)].view(-1, num_heads, dim)  # [c, H, D]
        mean_dot = (attention.weights * dots).sum((2, 3, 4))  # [c, H]
        if null_value is not None:
            mean_dot = mean_dot + attention.null_weight * (grad_here * null_value.to(grad.dtype)).sum(-1)
            grad_null_value += torch.einsum("ch,chd->hd", attention.null_weight, grad_here)
        logit_slopes = attention.weights * (dots - mean_dot[..., None, None, None])  # [c, H, M, L, P]
        if attention.triples is not None and not bool(logit_slopes.isfinite().all()):
            # The weights of a query whose softmax is NaN are NaN for the images that it does not see, too.
            logit_slopes = all_triples(seen_triples(logit_slopes, attention), attention)

        grad_points[chunk.queries] = location_slopes.sum(1).sum_to_size(len(grad_here), *grad_points.shape[1:])
        offset_slopes = location_slopes.sum_to_size(*location_slopes.shape[:3], *grad_offsets.shape[2:])
        grad_offsets[chunk.queries] = offset_slopes.sum(2)
        grad_logits[chunk.queries] = logit_slopes.sum(2)
        for table_grad, slopes_of_age in ((grad_offset_table, offset_slopes), (grad_logit_table, logit_slopes)):
            if table_grad.numel():
                rows = (attention.ages - 1).clamp(max=table_grad.shape[0] - 1)
                table_grad.index_add_(0, rows, slopes_of_age.sum(0).transpose(0, 1))
        if needs_value:
            entries.append(entries_of(chunk, table))

    def finished(grad_tensor: Tensor, tensor: Tensor | None) -> Tensor:
        return grad_tensor if tensor is None else grad_tensor.view(tensor.shape).to(tensor.dtype)

    return MMFSAttentionGradients(
        table_gradient(entries, grad, value) if needs_value else value.new_empty(0),
        finished(grad_points, arguments.reference_points),
        finished(grad_offsets, arguments.sampling_offsets),
        finished(grad_logits, arguments.attention_logits),
        finished(grad_offset_table, arguments.offset_table),
        finished(grad_logit_table, arguments.logit_table),
        finished(grad_null_value, null_value),
    )


def mmfs_attention_chunks(arguments: MMFSAttentionArguments) -> Iterator[tuple[Chunk, Attention]]:
    """Chunks of queries in order, each with the samples of the images it sees and with its softmax."""
    num_heads, num_levels, num_points = arguments.attention_logits.shape[2:]
    offset_table, logit_table = arguments.offset_table_by_level, arguments.logit_table
    dtype = accumulation_dtype(arguments.value.dtype)
    planes = image_planes(arguments.value, arguments.sizes)  # [N, L, 3]
    images_of = image_lists(arguments, num_images=planes.shape[0])
    all_points = arguments.points_by_slot.flatten(0, 1)  # [B*Q, K or 1, L or 1, P or 1, 2]
    all_offsets = arguments.offsets_by_level.flatten(0, 1)  # [B*Q, H, L or 1, P, 2]
    all_logits = arguments.attention_logits.flatten(0, 1)  # [B*Q, H, L, P]
    for queries in chunks_of(len(all_logits), num_heads * max(images_of.most, 1) * num_levels * num_points * 4):
        images = images_of.chunk(queries)  # [c, M], -1 where a query sees none
        ages = torch.arange(1, images.shape[1] + 1, device=images.device)  # [M]
        seen = images >= 0
        num_seen = seen.sum(1)  # [c]
        triples = None
        if not bool(seen.all()):
            triples = seen[:, None].expand(-1, num_heads, -1).flatten().nonzero().squeeze(1)

        logits = all_logits[queries].to(dtype)[:, :, None].expand(-1, -1, len(ages), -1, -1)  # [c, H, M, L, P]
        if logit_table is not None:
            logits = logits + of_age(logit_table.to(dtype), ages).transpose(0, 1)
        logits = logits.masked_fill(~seen[:, None, :, None, None], -torch.inf)
        weights, null_weight = (part[0] for part in softmax_with_null(logits[None], arguments.null_logit))
        attention = Attention(weights, null_weight, ages, triples)

        offsets = all_offsets[queries].to(dtype)[:, :, None]  # [c, H, 1, L or 1, P, 2]
        if offset_table is not None:
            offsets = offsets + of_age(offset_table.to(dtype), ages).transpose(0, 1)
        locations = all_points[queries].to(dtype)[:, None] + offsets  # [c, H, 1 or M, L or 1, P, 2]
        locations = locations.expand(-1, -1, len(ages), -1, -1, -1)

        bag = torch.arange(len(num_seen) * num_heads, device=images.device)[:, None]  # of this chunk
        image = images.repeat_interleave(num_heads, 0)  # [c*H, M]
        bag, image = (
            seen_triples(part.expand_as(image).reshape(*weights.shape[:3]), attention) for part in (bag, image)
        )
        seen_locations = seen_triples(locations, attention)  # [e, L or 1, P, 2]
        samples = find_corners(seen_locations, planes.index_select(0, image), bag % num_heads, num_heads)
        triples_of_bag = num_seen.repeat_interleave(num_heads)  # [c*H]
        starts = (triples_of_bag.cumsum(0) - triples_of_bag) * (num_levels * num_points)
        bags = bag + queries.start * num_heads
        yield Chunk(queries, samples, seen_triples(weights, attention), bags, starts), attention


class ImageLists(NamedTuple):
    """Which images each of the B*Q queries sees, in the order of the rows of the tables."""

    most: int  # images of one query
    chunk: Callable[[slice], Tensor]  # of these queries, int [c, M], -1 where there is none


def image_lists(arguments: MMFSAttentionArguments, num_images: int) -> ImageLists:
    """Raises ValueError for images beyond the bank."""
    if arguments.image_indices is not None:
        lists = checked_image_indices(arguments.image_indices, num_images).flatten(0, 1)  # [B*Q, K]
        return ImageLists(lists.shape[1], lambda queries: lists[queries])
    num_visible = count_visible(arguments.ranges, num_images).flatten()  # [B*Q]
    last = arguments.ranges[..., 1].flatten().long()

    def of_ranges(queries: slice) -> Tensor:
        num_seen = num_visible[queries, None]
        ages = torch.arange(1, int(num_seen.max()) + 1, device=last.device)
        return torch.where(ages <= num_seen, last[queries, None] - ages, -1)

    return ImageLists(int(num_visible.max()) if num_visible.numel() else 0, of_ranges)


def locations_are_shared(arguments: MMFSAttentionArguments) -> bool:
    """Whether the samples of an image lie at the same places on every level."""
    return arguments.points_by_slot.shape[3] == 1 and arguments.offsets_by_level.shape[3] == 1


def seen_triples(of_all: Tensor, attention: Attention) -> Tensor:
    """[c, H, M, ...] -> [e, ...]."""
    flat = of_all.flatten(0, 2)
    return flat if attention.triples is None else flat.index_select(0, attention.triples)


def all_triples(of_seen: Tensor, attention: Attention) -> Tensor:
    """[e, ...] -> [c, H, M, ...], 0 where a query does not see the image."""
    if attention.triples is not None:
        flat = of_seen.new_zeros(attention.weights.shape[:3].numel(), *of_seen.shape[1:])
        of_seen = flat.index_copy_(0, attention.triples, of_seen)
    return of_seen.view(*attention.weights.shape[:3], *of_seen.shape[1:])


# ---------------------------------------------------------------------------------------------------------------------
# Rows and their sums


def pixel_table(value: Tensor) -> Tensor:
    """[..., H, D] -> [total pixels * H, D], without a copy if value is contiguous and not of a half type."""
    return value.reshape(-1, value.shape[-1]).to(accumulation_dtype(value.dtype))


def chunks_of(num_queries: int, corners_of_query: int) -> Iterator[slice]:
    """Split the B*Q queries so that a chunk has about CHUNK_CORNERS corners."""
    step = max(1, CHUNK_CORNERS // max(corners_of_query, 1))
    for start in range(0, num_queries, step):
        yield slice(start, min(start + step, num_queries))


def bags_of(queries: slice, num_heads: int) -> slice:
    return slice(queries.start * num_heads, queries.stop * num_heads)


def find_corners(locations: Tensor, planes: Tensor, heads: Tensor, num_heads: int) -> Samples:
    """Which rows the samples sum, and how.

    Args:
        locations: [e, L or 1, P, 2], (x, y), 0 to 1 across the level.
        planes: int [e, L, 3]: height, width, first pixel.
        heads: int [e].
        num_heads: H.
    """
    height, width, first_pixel = planes[..., None].unbind(2)  # each [e, L, 1]
    x = locations[..., 0] * width - 0.5  # [e, L, P]
    y = locations[..., 1] * height - 0.5
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)  # False for NaN
    x = torch.where(inside, x, 0.0)
    y = torch.where(inside, y, 0.0)
    left, top = x.floor(), y.floor()
    right, below = x - left, y - top
    left, top = left.long(), top.long()
    has_left, has_right = (left >= 0) & inside, (left < width - 1) & inside
    has_top, has_bottom = top >= 0, top < height - 1
    left_share, right_share = torch.where(has_left, 1 - right, 0.0), torch.where(has_right, right, 0.0)
    top_share, bottom_share = torch.where(has_top, 1 - below, 0.0), torch.where(has_bottom, below, 0.0)

    # A corner outside moves onto one inside that the sample uses anyway: no other pixel is read with weight 0.
    first_row = first_pixel * num_heads + heads[:, None, None]
    left_column = left.clamp(min=0) * num_heads
    right_column = torch.minimum(left + 1, width - 1) * num_heads
    upper = top.clamp(min=0) * (width * num_heads) + first_row
    lower = torch.minimum(top + 1, height - 1) * (width * num_heads) + first_row
    corners = (
        Corner(upper + left_column, top_share * left_share, has_top & has_left),
        Corner(upper + right_column, top_share * right_share, has_top & has_right),
        Corner(lower + left_column, bottom_share * left_share, has_bottom & has_left),
        Corner(lower + right_column, bottom_share * right_share, has_bottom & has_right),
    )
    return Samples(corners, inside, right, below, width, height)


def sum_of_rows(table: Tensor, chunk: Chunk) -> Tensor:
    """Weighted sum of the rows of each bag -> [c*H, D]."""
    out = table.new_zeros(len(chunk.starts), table.shape[1])
    for corner in chunk.samples.corners:
        out += bag_sums(table, corner.rows, corner.shares * chunk.weights, chunk.starts)
    if bool(out.isfinite().all()):
        return out
    # A sample outside its level read some pixel with share 0, and 0 * inf is NaN: read a row of zeros with weight 0.
    padded = torch.cat([table, table.new_zeros(1, table.shape[1])])
    out = torch.zeros_like(out)
    for corner in chunk.samples.corners:
        rows = corner.rows.masked_fill(~corner.touched, table.shape[0])
        out += bag_sums(padded, rows, corner.factors(chunk.weights), chunk.starts)
    return out


def bag_sums(table: Tensor, rows: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    """Weighted sums of rows, one for each start -> [len(starts), D]."""
    return F.embedding_bag(rows.flatten(), table, starts, mode="sum", per_sample_weights=weights.flatten())


def sample_gradients(table: Tensor, chunk: Chunk, grad: Tensor) -> tuple[Tensor, Tensor]:
    """What the output gradient says about each sample.

    Args:
        grad: [B*Q*H, D], gradient of the output.

    Returns:
        [e, L, P], its product with the sample, and [e, L, P, 2], the derivative of that with respect to the location.
    """
    samples = chunk.samples
    grad_of_triple = grad.index_select(0, chunk.bags)[:, None]  # [e, 1, D]
    dots = []
    for corner in samples.corners:
        pixels = table.index_select(0, corner.rows.flatten())
        pixels = pixels.view(*corner.rows.flatten(1).shape, table.shape[1])  # [e, L*P, D]
        dot = torch.bmm(grad_of_triple, pixels.transpose(1, 2)).view(corner.rows.shape)
        dots.append(torch.where(corner.touched, dot, 0.0))
    upper_left, upper_right, lower_left, lower_right = dots  # each [e, L, P]
    slope_x = torch.lerp(upper_right - upper_left, lower_right - lower_left, samples.below) * samples.width
    slope_y = torch.lerp(lower_left - upper_left, lower_right - upper_right, samples.right) * samples.height
    products = torch.stack([corner.shares * dot for corner, dot in zip(samples.corners, dots, strict=True)])
    return products.sum(0), torch.stack([slope_x, slope_y], -1)


def weighted_slopes(slopes: Tensor, chunk: Chunk) -> Tensor:
    """Slopes of the samples [e, L, P, 2] times their attention weights; 0 for a sample outside its level."""
    return torch.where(chunk.samples.inside[..., None], slopes * chunk.weights[..., None], 0.0)


def entries_of(chunk: Chunk, table: Tensor) -> Entries:
    """What the chunk adds to the gradient of the table."""
    small = max(table.shape[0], chunk.queries.stop * chunk.starts.numel()) < 2**31
    index = torch.int32 if small else torch.int64  # 32 bits sort in half the time
    corners = chunk.samples.corners
    bags = chunk.bags.to(index)[:, None, None].expand_as(chunk.weights).flatten()
    return Entries(
        torch.cat([corner.rows.flatten().to(index) for corner in corners]),
        bags.repeat(len(corners)),
        torch.cat([corner.factors(chunk.weights).flatten() for corner in corners]),
    )


def table_gradient(entries: Sequence[Entries], grad: Tensor, value: Tensor) -> Tensor:
    """Gradient of value: for each row of the table the weighted sum of grad [B*Q*H, D] over its entries."""
    num_rows = value.shape[:-1].numel()
    if not entries:
        return torch.zeros_like(value, memory_format=torch.contiguous_format)
    rows, bags, weights = (torch.cat(parts) for parts in zip(*entries, strict=True))
    rows, order = rows.sort(stable=True)
    entries_of_row = torch.bincount(rows, minlength=num_rows)
    starts = (entries_of_row.cumsum(0) - entries_of_row).to(bags.dtype)
    sums = bag_sums(grad, bags.index_select(0, order), weights.index_select(0, order), starts)
    return sums.view(value.shape).to(value.dtype)
