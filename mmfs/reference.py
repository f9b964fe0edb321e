"""The two ops in plain PyTorch: what they mean. Every other implementation is compared with this one.

Works on any device and in float64, and can be differentiated twice. Half types are computed in float32.

Letters: B batch, Q queries, N images of the bank, S pixels of all levels of an image, H heads, D channels of a
head, L levels, P points, M the most images that one query sees, K slots of a list of images, A rows of the age tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmfs.arguments import MMFSAttentionArguments, MSDeformAttnArguments

LARGEST_FLOAT32 = torch.finfo(torch.float32).max
"""Sums are in float32, or in float64, which holds more."""


def ms_deform_attn_reference(arguments: MSDeformAttnArguments) -> Tensor:
    """Deformable-DETR's op (Zhu et al., 2021, Eq. 3, after its projections); arguments as in `mmfs.ms_deform_attn`."""
    value, spatial_shapes, sampling_locations, attention_weights = arguments
    batch = value.shape[0]
    dtype = accumulation_dtype(value.dtype)
    planes = image_planes(value, spatial_shapes)[:, None]  # [B, 1, L, 3]: row b of the batch samples image b
    out = weighted_samples(
        value.flatten(0, 1).to(dtype), planes, sampling_locations.to(dtype), attention_weights.to(dtype)
    )  # [B, Q, H, D]
    return out.reshape(batch, sampling_locations.shape[1], value.shape[2] * value.shape[3]).to(value.dtype)


def mmfs_attention_reference(arguments: MMFSAttentionArguments) -> Tensor:
    """MMFS between its projections (MM-Interleaved, Eq. 4); arguments as in `mmfs.mmfs_attention`."""
    value, null_value = arguments.value, arguments.null_value
    num_heads = arguments.attention_logits.shape[2]
    dtype = accumulation_dtype(value.dtype)
    pixels = value.flatten(0, -3).to(dtype)  # [total pixels, H, D]
    planes = image_planes(value, arguments.sizes)  # [N, L, 3]
    images = seen_images(arguments, num_images=planes.shape[0])  # [B, Q, M]
    seen = images >= 0
    weights, null_weight = attention_by_age(arguments, seen, dtype)
    if null_value is None:
        null_value = pixels.new_zeros(num_heads, value.shape[-1])
    out = null_weight[..., None] * null_value.to(dtype)  # [B, Q, H, D]
    for m in range(images.shape[2]):  # one age at a time: nothing of size queries x images x channels
        locations = locations_at_age(arguments, m + 1, dtype)  # [B, Q, H, L or 1, P, 2]
        image = torch.where(seen[..., m], images[..., m], 0)  # [B, Q]
        out = out + weighted_samples(pixels, planes[image], locations, weights[:, :, :, m], seen[..., m])
    return out.flatten(2).to(value.dtype)


def attention_by_age(arguments: MMFSAttentionArguments, seen: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """How each query of `mmfs.mmfs_attention` divides its attention.

    Args:
        arguments: their logits, table of logits and logit of null are read, nothing else.
        seen: bool [B, Q, M], which of the images of `seen_images` there are.
        dtype: to compute in.

    Returns:
        weights [B, Q, H, M, L, P], 0 where there is no image; and the weight of null [B, Q, H].
    """
    ages = torch.arange(1, seen.shape[2] + 1, device=seen.device)
    logits = arguments.attention_logits.to(dtype)[:, :, :, None].expand(
        -1, -1, -1, len(ages), -1, -1
    )  # [B, Q, H, M, L, P]
    if arguments.logit_table is not None:
        logits = logits + of_age(arguments.logit_table.to(dtype), ages).transpose(0, 1)
    logits = logits.masked_fill(~seen[:, :, None, :, None, None], -torch.inf)
    return softmax_with_null(logits, arguments.null_logit)


def locations_at_age(arguments: MMFSAttentionArguments, age: int, dtype: torch.dtype) -> Tensor:
    """Where each query of `mmfs.mmfs_attention` samples the image of an age, in a range, or of slot age - 1 of a list.

    Reference points, offsets and their table are read, nothing else.

    Returns:
        [B, Q, H, L or 1, P, 2], (x, y) in [0, 1], in `dtype`; 1: the same on every level.
    """
    points = arguments.points_by_slot.to(dtype)  # [B, Q, K or 1, L or 1, P or 1, 2]
    offsets, table = arguments.offsets_by_level.to(dtype), arguments.offset_table_by_level
    if table is not None:
        offsets = offsets + table[min(age, len(table)) - 1].to(dtype)
    return points[:, :, None, min(age, points.shape[2]) - 1] + offsets


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half types are accumulated in float32: thousands of gradients can meet in one pixel."""
    return torch.promote_types(dtype, torch.float32)


def image_planes(value: Tensor, spatial_shapes: Sequence[int] | Tensor) -> Tensor:
    """Height, width and first pixel of every level of every image.

    Args:
        value: [N, S, H, D], or [total pixels, H, D] when images differ in size.
        spatial_shapes: h, w, h, w, ... of the levels; for a value [total pixels, H, D] an integer tensor [N, L, 2].

    Returns:
        int64 [N, L, 3]; the first pixel counts over the whole bank.

    Raises:
        ValueError: sizes per image are not positive or do not add up to the total pixels.
    """
    if isinstance(spatial_shapes, Tensor):
        sizes = spatial_shapes.to(value.device, torch.long)
        if not bool(sizes_fit(sizes, value.shape[0])):
            sides = sizes.flatten().tolist()
            described = sum(h * w for h, w in zip(sides[::2], sides[1::2], strict=True))
            raise ValueError(
                f"spatial_shapes describe {described} pixels in {sizes.shape[0]} images (smallest side "
                f"{min(sides, default=0)}) but value holds {value.shape[0]}. Expected sides of at least 1 and value "
                "[sum of h*w over all images and levels, H, D]."
            )
        num_pixels = sizes.prod(-1)  # [N, L]
    else:
        one_image = torch.tensor(spatial_shapes, dtype=torch.long, device=value.device).view(-1, 2)
        sizes = one_image.expand(value.shape[0], -1, -1)
        num_pixels = sizes.prod(-1)
    first_pixel = num_pixels.flatten().cumsum(0).view_as(num_pixels) - num_pixels
    return torch.cat([sizes, first_pixel[..., None]], dim=-1)


def sizes_fit(sizes: Tensor, num_pixels: int) -> Tensor:
    """Whether sizes int64 [N, L, 2] are positive and add up to num_pixels: bool [], on their device.

    Nothing is multiplied or added before it is known to fit 64 bits: sides of 2**32 have a product of 0 there.
    """
    height, width = sizes.unbind(-1)
    fits = (sizes >= 1).all() & (height <= num_pixels // width.clamp(min=1)).all()
    ends = torch.where(fits, height * width, 0).flatten().cumsum(0)  # an overflow would show as a sum that is too large
    return fits & (ends <= num_pixels).all() & (ends[-1:].sum() == num_pixels)


def seen_images(arguments: MMFSAttentionArguments, num_images: int) -> Tensor:
    """The images that each query sees, in the order of the rows of the tables: int64 [B, Q, M], -1 where there is none.

    Raises:
        ValueError: one that is not in the bank.
    """
    if arguments.image_indices is not None:
        return checked_image_indices(arguments.image_indices, num_images)[..., : None if num_images else 0]
    num_visible = count_visible(arguments.ranges, num_images)  # [B, Q]
    most = int(num_visible.max()) if num_visible.numel() else 0
    ages = torch.arange(1, most + 1, device=num_visible.device)
    return torch.where(ages <= num_visible[..., None], arguments.ranges[..., 1:].long() - ages, -1)


def checked_image_indices(image_indices: Tensor, num_images: int) -> Tensor:
    """image_indices as int64.

    Raises:
        ValueError: one is neither -1 nor an image of the bank.
    """
    images = image_indices.long()
    outside = (images < -1) | (images >= num_images)
    if bool(outside.any()):
        expected = f"-1 for no image, or 0 to {num_images - 1}" if num_images else "-1, no image"
        raise ValueError(
            f"image_indices holds {int(images[outside][0])} but the bank has {num_images} images. Expected {expected}."
        )
    return images


def count_visible(visible: Tensor, num_images: int) -> Tensor:
    """How many images each query sees: [..., 2] (first, one past last) -> int64 [...]; an empty range counts 0.

    Raises:
        ValueError: a range that is not empty reaches beyond the bank.
    """
    first, last = visible.long().unbind(-1)
    sees = last > first  # asked before the difference is taken, which may not fit 64 bits
    outside = sees & ((first < 0) | (last > num_images))
    if bool(outside.any()):
        wrong = visible[outside][0].tolist()
        raise ValueError(
            f"visible holds the range {wrong} but the bank has {num_images} images. Expected 0 <= first <= last <= "
            f"{num_images}; a query that sees nothing has first == last."
        )
    return torch.where(sees, last - first, 0)


def of_age(table: Tensor, ages: Tensor) -> Tensor:
    """Row r - 1 of a table [A, ...] for age r; images older than the table take its last row."""
    return table[(ages - 1).clamp(max=table.shape[0] - 1)]


def softmax_with_null(logits: Tensor, null_logit: float | None) -> tuple[Tensor, Tensor]:
    """Softmax over images, levels and points with one more entry, null.

    Args:
        logits: [B, Q, H, M, L, P], -inf where a query does not see the image.
        null_logit: logit of null; None for a softmax without it.

    Returns:
        weights [B, Q, H, M, L, P] and the weight of null [B, Q, H]: without null it is 0, or 1 for a query that sees
        nothing.
    """
    flat = logits.flatten(3)  # [B, Q, H, M*L*P]
    lowest = -torch.inf if null_logit is None else null_logit
    peak = torch.cat([flat.detach(), flat.new_full((*flat.shape[:3], 1), lowest)], dim=-1).amax(-1)  # [B, Q, H]
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    shares = (flat - peak[..., None]).exp()
    null_share = torch.zeros_like(peak) if null_logit is None else (null_logit - peak).exp()
    total = shares.sum(-1) + null_share
    nothing = total == 0
    total = total.masked_fill(nothing, 1.0)
    weights = (shares / total[..., None]).view_as(logits)
    return weights, (null_share / total).masked_fill(nothing, 1.0)


def weighted_samples(
    pixels: Tensor, planes: Tensor, locations: Tensor, weights: Tensor, seen: Tensor | None = None
) -> Tensor:
    """Sum over levels and points of weight * bilinear sample.

    A sample is bilinear between pixel centres at (index + 0.5) / size and zero outside: `align_corners=False` with
    `padding_mode="zeros"` of grid_sample. A location that is not finite samples zero and gets no gradient. A pixel that
    a sample does not touch has no effect on it, whatever it holds, and a sample that touches none has no effect,
    whatever its weight.

    Args:
        pixels: [total pixels, H, D].
        planes: int64, broadcastable to [B, Q, L, 3]: height, width, first pixel.
        locations: [B, Q, H, L or 1, P, 2], (x, y), 0 to 1 across the level.
        weights: [B, Q, H, L, P].
        seen: bool [B, Q]; False: the query gets nothing. None: all True.

    Returns:
        [B, Q, H, D].
    """
    height, width, first_pixel = planes[:, :, None, :, None].unbind(-1)  # each [B, Q, 1, L, 1]
    x = locations[..., 0] * width - 0.5  # [B, Q, H, L, P]
    y = locations[..., 1] * height - 0.5
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)  # False for NaN
    if seen is not None:
        inside = inside & seen[..., None, None, None]
    x = torch.where(inside, x, 0.0)
    y = torch.where(inside, y, 0.0)
    left = x.detach().floor()
    top = y.detach().floor()
    head = torch.arange(pixels.shape[1], device=pixels.device)[:, None, None]

    out = pixels.new_zeros(*weights.shape[:3], pixels.shape[2])
    for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
        for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
            touched = inside & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = torch.where(touched, first_pixel + row.long() * width + column.long(), 0)
            corner = torch.where(touched[..., None], pixels[index, head], 0.0)  # [B, Q, H, L, P, D]
            share = torch.where(touched, weights * column_weight * row_weight, 0.0)
            out = out + torch.einsum("bqhlp,bqhlpd->bqhd", share, corner)
    return out
