"""The layers around the two ops: the paper's feature synchronizer and Deformable-DETR's module.

Letters: B batch, Q queries, N images of the bank, S pixels of all levels, H heads, D channels of a head, L levels,
P points, A ages. Sizes are (h, w); points, offsets and base are (x, y) or (w, h).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Literal, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfs.arguments import MMFSAttentionArguments
from mmfs.functional import (
    Backend,
    Sizes,
    broadcasts,
    check_backend,
    mmfs_attention,
    ms_deform_attn,
    no_tensor,
    shared_sizes,
    sizes_of,
)

HALF_TYPES = (torch.float16, torch.bfloat16)


class MMFS(nn.Module):
    """Multi-image multi-scale feature synchronizer (MM-Interleaved, 2024, section 3.2, Eq. 4).

    A query samples a few points of every image it may see, on every level of their feature pyramids. Each piece of
    Eq. 4 is there (W_q `query_proj`, PosEmbed `age_embedding`, W_p `sampling_offsets`, W_A `attention_weights`). As
    W (W_q f + PosEmbed) = W W_q f + W PosEmbed, what depends on the image is a table with a row for each age, and
    nothing of size queries x images x channels is made.

        values = layer.project_values(features)                                # once for each image
        out = layer(query, reference_points, visible, values=values)           # as often as needed
    """

    backend: Backend | None = None  # of layers that were pickled before they had one

    def __init__(
        self,
        query_dim: int,
        feature_dim: int,
        *,
        spatial_shapes: Sequence[tuple[int, int]],
        num_heads: int = 16,
        num_points: int = 8,
        value_dim: int | None = None,
        output_dim: int | None = None,
        max_age: int = 50,
        base: int | tuple[int, int] = 16,
        null: bool = True,
        offset_init: Literal["uniform", "grid"] = "uniform",
        offset_init_cells: float = 3.0,
        backend: Backend | None = None,
    ) -> None:
        """
        Args:
            query_dim: channels of a query.
            feature_dim: channels of the image features.
            spatial_shapes: (h, w) of the L levels of an image.
            num_heads: H.
            num_points: P, samples of each head on each level of each image.
            value_dim: H*D, channels of the projected features; default query_dim.
            output_dim: channels of the result; default query_dim.
            max_age: A; images older than this share the oldest age.
            base: cells (w, h) that an image is divided into, or one number for both: the unit of predicted offsets.
            null: give a share of the attention to a learned `null_value` [H, D] (the released model, with logit 0)
                instead of always to images (the paper).
            offset_init: how the points of a new layer are spread around the reference point: at random, or on a grid.
            offset_init_cells: half the width of that region, in cells.
            backend: of `mmfs_attention`: "reference", "cpu", "cuda", or None for what suits the device.

        Raises:
            ValueError, TypeError: value_dim is no multiple of num_heads; a count or a side of base is below 1 or no
                int; no level, or one with a side below 1; offset_init is neither of the two; there is no such backend.
        """
        super().__init__()
        value_dim = query_dim if value_dim is None else value_dim
        output_dim = query_dim if output_dim is None else output_dim
        check_counts(query_dim=query_dim, feature_dim=feature_dim, value_dim=value_dim, output_dim=output_dim)
        check_counts(num_heads=num_heads, num_points=num_points, max_age=max_age)
        if value_dim % num_heads:
            raise ValueError(f"value_dim is {value_dim} with num_heads {num_heads}. Expected a multiple of num_heads.")
        if offset_init not in ("uniform", "grid"):
            raise ValueError(f"offset_init is {offset_init!r}. Expected 'uniform' or 'grid'.")
        check_backend(backend)
        self.backend = backend
        self.query_dim = query_dim
        self.feature_dim = feature_dim
        sizes = shared_sizes(spatial_shapes)
        self.spatial_shapes = tuple(zip(sizes[::2], sizes[1::2], strict=True))
        self.num_heads = num_heads
        self.num_levels = len(self.spatial_shapes)
        self.num_points = num_points
        self.value_dim = value_dim
        self.output_dim = output_dim
        self.max_age = max_age
        self.base = pair(base)
        self.offset_init = offset_init
        self.offset_init_cells = offset_init_cells

        self.query_proj = nn.Linear(query_dim, query_dim)  # W_q
        self.age_embedding = nn.Parameter(torch.empty(max_age, query_dim))  # PosEmbed
        self.sampling_offsets = nn.Linear(query_dim, num_heads * num_points * 2)  # W_p, in cells
        self.attention_weights = nn.Linear(query_dim, num_heads * self.num_levels * num_points)  # W_A
        self.value_proj = nn.Linear(feature_dim, value_dim)
        self.output_proj = nn.Linear(value_dim, output_dim)
        self.null_value = nn.Parameter(torch.empty(num_heads, value_dim // num_heads)) if null else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every query starts with the same points and equal weights.

        The points differ from each other: equal ones would get equal gradients and stay equal.
        """
        self.query_proj.reset_parameters()
        nn.init.trunc_normal_(self.age_embedding, std=0.02)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(self._initial_offsets().flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        if self.null_value is not None:
            nn.init.zeros_(self.null_value)

    def _initial_offsets(self) -> Tensor:
        """[H, P, 2] in cells."""
        num_samples = self.num_heads * self.num_points
        if self.offset_init == "uniform":
            unit = torch.rand(num_samples, 2) * 2 - 1
        else:
            # All heads together cover one grid; neighbouring points belong to different heads.
            columns = math.ceil(math.sqrt(num_samples))
            rows = math.ceil(num_samples / columns)
            sample = torch.arange(num_samples)
            cell = torch.stack([sample % columns, sample // columns], dim=-1)  # (x, y)
            unit = (2 * cell + 1) / torch.tensor([columns, rows]) - 1
            unit = unit.view(self.num_points, self.num_heads, 2).transpose(0, 1)
        return unit.reshape(self.num_heads, self.num_points, 2) * self.offset_init_cells

    def project_values(self, features: Tensor) -> Tensor:
        """Image features [N, S, feature_dim] -> values [N, S, H, D]; independent of queries, so once for each image.

        Of images that differ in size, features [total pixels, feature_dim] -> values [total pixels, H, D].
        """
        num_pixels = sum(h * w for h, w in self.spatial_shapes)
        differ = features.ndim == 2
        if not (differ or (features.ndim == 3 and features.shape[1] == num_pixels)) or (
            features.shape[-1] != self.feature_dim
        ):
            raise ValueError(
                f"features has shape {list(features.shape)}. Expected [N, S, feature_dim] = [N, {num_pixels}, "
                f"{self.feature_dim}] for the levels {list(self.spatial_shapes)}, finest first as given to the layer; "
                f"of images that differ in size, [total pixels, {self.feature_dim}]."
            )
        values: Tensor = self.value_proj(features)
        return values.view(*values.shape[:-1], self.num_heads, self.value_dim // self.num_heads)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        visible: Tensor | None = None,
        *,
        image_indices: Tensor | None = None,
        features: Tensor | None = None,
        values: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        base: tuple[int, int] | None = None,
        record: Callable[[MMFSAttentionArguments], None] | None = None,
    ) -> Tensor:
        """
        Args:
            query: [B, Q, query_dim], in the dtype of the parameters, like features or values.
            reference_points: broadcastable to [B, Q, 2], (x, y) in [0, 1], float32: what sampling offsets are added to.
                With image_indices [B, Q, K, 2] or, where they differ by level or by sampled point, [B, Q, K, L, P, 2].
            visible: int [B, Q, 2], first and one past the last image of the bank that each query sees; equal for none.
            image_indices: int [B, Q, K], in place of visible: any images of the bank, -1 for none, each with a point of
                its own. Slot k takes what the layer learned of age k + 1: give it max_age = K and each camera a slot to
                learn something of each camera, or max_age = 1 to treat all alike. See `mmfs.mmfs_attention`.
            features: [N, S, feature_dim], the bank, level by level as in the layer's spatial_shapes, each level row by
                row (`feature_map.flatten(2).transpose(1, 2)` of each level, concatenated); or
            values: [N, S, H, D], the bank after `project_values`.
            spatial_shapes: int [N, L, 2], (h, w) of each level of each image, in place of the layer's sizes when images
                differ; features is then [total pixels, feature_dim], or values [total pixels, H, D].
            base: (w, h) in place of the layer's base, for queries on grids of changing size.
            record: called with what `mmfs_attention` was called with; `mmfs.sampled.sampled` makes locations and
                weights of it.

        Returns:
            [B, Q, output_dim]. A query that sees no image gets output_proj(null_value), or output_proj(0) without null.

        Raises:
            ValueError, TypeError: shapes or dtypes that do not fit; both or none of features and values.
        """
        if (features is None) == (values is None):
            given = "neither" if features is None else "both"
            raise ValueError(
                f"{given} of features and values given. Expected features [N, S, feature_dim], or values from "
                "project_values."
            )
        age_embedding, null_value = self.age_embedding, self.null_value
        if values is None:
            assert features is not None
            check_dtypes("features", features, query, age_embedding.dtype)
            values = self.project_values(features)
        else:
            check_dtypes("values", values, query, age_embedding.dtype)
        if query.ndim != 3 or query.shape[-1] != self.query_dim:
            raise ValueError(f"query has shape {list(query.shape)}. Expected [B, Q, query_dim = {self.query_dim}].")

        batch, num_queries, _ = query.shape
        offset_shape = (self.num_heads, self.num_points, 2)
        logit_shape = (self.num_heads, self.num_levels, self.num_points)
        cells = self.base if base is None else base
        mixed = self.query_proj(query)
        offsets = self.sampling_offsets(mixed).view(batch, num_queries, *offset_shape)  # [B, Q, H, P, 2]
        logits = self.attention_weights(mixed).view(batch, num_queries, *logit_shape)  # [B, Q, H, L, P]
        offset_table = without_bias(self.sampling_offsets, age_embedding).view(-1, *offset_shape)
        logit_table = without_bias(self.attention_weights, age_embedding).view(-1, *logit_shape)
        sizes: Sizes = self.spatial_shapes if spatial_shapes is None else spatial_shapes
        offsets, offset_table = normalise(offsets, cells), normalise(offset_table, cells)
        null_logit = None if null_value is None else 0.0
        sampled = mmfs_attention(
            values,
            sizes,
            reference_points,
            offsets,
            logits,
            visible,
            offset_table=offset_table,
            logit_table=logit_table,
            null_logit=null_logit,
            null_value=null_value,
            image_indices=image_indices,
            backend=self.backend,
        )  # [B, Q, H*D]
        if record is not None:
            shared, of_images = sizes_of(sizes)
            record(
                MMFSAttentionArguments(
                    values,
                    shared,
                    reference_points,
                    offsets,
                    logits,
                    visible,
                    offset_table,
                    logit_table,
                    null_logit,
                    null_value,
                    of_images,
                    image_indices,
                )
            )
        out: Tensor = self.output_proj(sampled)
        return out

    def extra_repr(self) -> str:
        return (
            f"query_dim={self.query_dim}, feature_dim={self.feature_dim}, spatial_shapes={list(self.spatial_shapes)}, "
            f"num_heads={self.num_heads}, num_points={self.num_points}, value_dim={self.value_dim}, "
            f"output_dim={self.output_dim}, max_age={self.max_age}, base={self.base}, "
            f"null={self.null_value is not None}"
        )


def without_bias(projection: nn.Module, rows: Tensor) -> Tensor:
    """What a projection of [A, C] adds to that of a query, for any module that takes the place of a linear one: with an
    adapter, quantised, with hooks. Such a module is called, on the rows and on one of zeros, whose result is the bias.
    """
    if is_plain_linear(projection):
        return F.linear(rows, projection.weight)
    projected: Tensor = projection(torch.cat([rows, torch.zeros_like(rows[:1])]))
    return projected[:-1] - projected[-1]


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a call of it is `F.linear` with its weight and bias, and nothing else."""
    return type(module) is nn.Linear and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than its class says."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral):
            raise TypeError(f"{name} is {count!r}. Expected an int.")
        if count < 1:
            raise ValueError(f"{name} is {count}. Expected at least 1.")


def pair(base: int | Sequence[int]) -> tuple[int, int]:
    """Cells (w, h) from two numbers, or from one that holds for both."""
    cells = tuple(base) if isinstance(base, Sequence) else (base, base)
    if len(cells) != 2 or not all(isinstance(side, Integral) for side in cells):
        raise TypeError(f"base is {base!r}. Expected an int, or two of them, (w, h).")
    if min(cells) < 1:
        raise ValueError(f"base is {cells}. Expected at least 1 cell each way.")
    return cells


def check_dtypes(name: str, bank: Tensor, query: Tensor, parameters: torch.dtype) -> None:
    """Raises TypeError if bank, query and parameters of a layer differ in dtype, outside of autocast."""
    for which, tensor in ((name, bank), ("query", query)):
        if not isinstance(tensor, Tensor):
            raise no_tensor(which, tensor)
    if bank.dtype == query.dtype == parameters or torch.is_autocast_enabled(query.device.type):
        return
    dtypes = (str(dtype).removeprefix("torch.") for dtype in (bank.dtype, query.dtype, parameters))
    raise TypeError("{} are {}, query {}, parameters {}. Expected one dtype, or autocast.".format(name, *dtypes))


def normalise(offsets: Tensor, cells: tuple[int, int]) -> Tensor:
    """(x, y) in cells -> (x, y) in units of an image of (w, h) cells; float32 at least, for precise locations."""
    x, y = offsets.to(torch.promote_types(offsets.dtype, torch.float32)).unbind(-1)
    return torch.stack([x / cells[0], y / cells[1]], dim=-1)


def tensor_of(spatial_shapes: Sizes, device: torch.device) -> Tensor:
    """(h, w) of the levels, [L, 2]."""
    if isinstance(spatial_shapes, Tensor):
        return spatial_shapes.to(device)
    if torch.compiler.is_dynamo_compiling() or any(
        isinstance(side, torch.SymInt) for pair in spatial_shapes for side in pair
    ):
        # as_tensor would make constants of sizes that may vary in the graph.
        sides = shared_sizes(spatial_shapes)
        return torch.stack([torch.scalar_tensor(side, dtype=torch.long, device=device) for side in sides]).view(-1, 2)
    return torch.as_tensor(spatial_shapes, device=device)


class MSDeformAttn(nn.Module):
    """Deformable-DETR's multi-scale deformable attention module (Zhu et al., 2021): same parameters, same forward.

    State dicts of such a layer load as they are: Deformable-DETR's `MSDeformAttn`, mmcv's
    `MultiScaleDeformableAttention`, the self_attn of an encoder layer and the encoder_attn of a decoder layer in
    transformers' `DeformableDetrModel`. All hold, with V = d_model * ratio:

        sampling_offsets   weight [H*L*P*2, d_model]   bias [H*L*P*2]
        attention_weights  weight [H*L*P, d_model]     bias [H*L*P]
        value_proj         weight [V, d_model]         bias [V]
        output_proj        weight [d_model, V]         bias [d_model]
    """

    backend: Backend | None = None  # of layers that were pickled before they had one

    def __init__(
        self,
        d_model: int = 256,
        n_levels: int = 4,
        n_heads: int = 8,
        n_points: int = 4,
        ratio: float = 1.0,
        *,
        backend: Backend | None = None,
    ) -> None:
        """
        Args:
            d_model: channels of queries and of input_flatten.
            n_levels: L.
            n_heads: H.
            n_points: P, samples of each head on each level.
            ratio: channels of value over d_model (ViT-Adapter: 0.5).
            backend: of `ms_deform_attn`: "reference", "cpu", "cuda", or None for what suits the device.

        Raises:
            ValueError, TypeError: a count is below 1 or no int; the channels of value are no multiple of n_heads; there
                is no such backend.
        """
        super().__init__()
        check_counts(d_model=d_model, n_levels=n_levels, n_heads=n_heads, n_points=n_points)
        value_dim = int(d_model * ratio)
        if value_dim < 1 or value_dim % n_heads:
            raise ValueError(
                f"d_model {d_model} * ratio {ratio} is {value_dim} with n_heads {n_heads}. Expected a multiple of "
                "n_heads."
            )
        check_backend(backend)
        self.backend = backend
        self.d_model = d_model
        self.n_levels = n_levels
        self.n_heads = n_heads
        self.n_points = n_points
        self.ratio = ratio
        self.sampling_offsets = nn.Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(d_model, value_dim)
        self.output_proj = nn.Linear(value_dim, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The points of head h lie in direction h of a ring, point p at a distance of p + 1 pixels."""
        angles = torch.arange(self.n_heads) * (2 * math.pi / self.n_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # [H, 2], (x, y)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto the square around the pixel
        distances = torch.arange(1, self.n_points + 1)[:, None]  # [P, 1]
        ring = directions[:, None, None] * distances  # [H, 1, P, 2]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.n_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        input_flatten: Tensor,
        input_spatial_shapes: Sizes,
        input_level_start_index: Tensor | None = None,
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            query: [B, Q, d_model].
            reference_points: [B, Q, L, 2], (x, y) in [0, 1]; or [B, Q, L, 4], boxes (x, y, w, h). B, Q and L may be 1.
            input_flatten: [B, S, d_model], features level by level.
            input_spatial_shapes: (h, w) of the L levels, a sequence or an int tensor [L, 2].
            input_level_start_index: unused, it follows from the sizes; here because callers of the original pass it.
            input_padding_mask: bool [B, S], True where a pixel is padding: its value is zero.

        Returns:
            [B, Q, d_model].

        Raises:
            ValueError, TypeError: shapes or dtypes that do not fit.
        """
        if query.ndim != 3 or query.shape[-1] != self.d_model:
            raise ValueError(f"query has shape {list(query.shape)}. Expected [B, Q, d_model = {self.d_model}].")
        batch, num_queries, _ = query.shape
        expected = (batch, num_queries, self.n_levels)
        given = reference_points.shape
        if len(given) != 4 or given[3] not in (2, 4) or not broadcasts(given[:3], expected):
            raise ValueError(
                f"reference_points has shape {list(given)}. Expected [B, Q, L, 2] or [B, Q, L, 4], or 1 in place of "
                f"B, Q or L, with [B, Q, L] = {list(expected)}."
            )
        if input_flatten.ndim != 3 or input_flatten.shape[0] != batch or input_flatten.shape[2] != self.d_model:
            raise ValueError(
                f"input_flatten has shape {list(input_flatten.shape)}. Expected [B, S, d_model] with B = {batch} and "
                f"d_model = {self.d_model}."
            )
        if (num_levels := len(input_spatial_shapes)) != self.n_levels:
            raise ValueError(
                f"input_spatial_shapes has {num_levels} level{'s' * (num_levels != 1)}; the layer has n_levels = "
                f"{self.n_levels}."
            )
        value = self.value_proj(input_flatten)  # [B, S, H*D]
        if input_padding_mask is not None:
            value = value.masked_fill(input_padding_mask[..., None], 0.0)
        value = value.view(*value.shape[:2], self.n_heads, value.shape[-1] // self.n_heads)
        samples = (self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).view(batch, num_queries, *samples, 2)
        weights = self.attention_weights(query).view(batch, num_queries, self.n_heads, self.n_levels * self.n_points)
        weights = weights.softmax(-1).view(batch, num_queries, *samples)

        points = reference_points.float() if reference_points.dtype in HALF_TYPES else reference_points
        points = points[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
        if reference_points.shape[-1] == 2:
            sizes = tensor_of(input_spatial_shapes, query.device).to(points.dtype)
            locations = points + offsets / sizes.flip(-1)[:, None]  # (h, w) -> (w, h): offsets are (x, y) in pixels
        else:
            locations = points[..., :2] + offsets / self.n_points * points[..., 2:] * 0.5
        sampled = ms_deform_attn(value, input_spatial_shapes, locations, weights, backend=self.backend)
        out: Tensor = self.output_proj(sampled)
        return out

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, n_levels={self.n_levels}, n_heads={self.n_heads}, n_points={self.n_points}, "
            f"ratio={self.ratio}"
        )


class MultiScaleDeformableAttention(nn.Module):
    """`ms_deform_attn` with the forward of the module of that name in transformers: it has no parameters.

    transformers' Deformable-DETR family keeps one in every attention, under the name attn. `mmfs.replace_attention`
    puts ours in the place of all of them, and by other ways into models that have none; by hand, with a
    `DeformableDetrModel`:

        for layer in model.encoder.layers: layer.self_attn.attn = mmfs.MultiScaleDeformableAttention()
        for layer in model.decoder.layers: layer.encoder_attn.attn = mmfs.MultiScaleDeformableAttention()
    """

    backend: Backend | None = None  # of layers that were pickled before they had one

    def __init__(self, *, backend: Backend | None = None) -> None:
        """
        Args:
            backend: of `ms_deform_attn`: "reference", "cpu", "cuda", or None for what suits the device.

        Raises:
            ValueError: there is no such backend.
        """
        super().__init__()
        check_backend(backend)
        self.backend = backend

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: Sequence[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """
        Args:
            value: [B, S, H, D].
            value_spatial_shapes: unused, the list says the same.
            value_spatial_shapes_list: (h, w) of the L levels, ints.
            level_start_index: unused, it follows from the sizes.
            sampling_locations: [B, Q, H, L, P, 2], (x, y) in [0, 1].
            attention_weights: [B, Q, H, L, P].
            im2col_step: unused, any batch is computed at once.

        Returns:
            [B, Q, H*D].

        Raises:
            ValueError, TypeError: as `ms_deform_attn`.
        """
        return ms_deform_attn(
            value, value_spatial_shapes_list, sampling_locations, attention_weights, backend=self.backend
        )
