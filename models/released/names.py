"""The released checkpoint's names and layouts beside ours: one table, read in both directions.

Letters: H heads, L levels, P points, A ages, C channels, D channels a head, h x w a table of positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.mm_interleaved import MMInterleaved
from models.position import sincos_2d
from models.synchronized_unet import UNetSynchronizer

Layout = Literal["same", "reshaped", "ages", "slots"]
"""How a released tensor becomes ours.

"same": as it is. "reshaped": other dimensions, the same numbers. "ages": row 0 of the position embeddings, which
belongs to images that are masked out, is dropped. "slots": after the P logits of each head and level there is one
more, which the release overwrites with the null logit; it is dropped. What is dropped never affects the output; in the
other direction it is zero.
"""


@dataclass(frozen=True)
class Row:
    """Names that start with `released` there start with `ours` here; each {n} is a number, the same on both sides."""

    released: str
    ours: str
    layout: Layout = "same"


MMFS = (
    Row("dynamic_offset_mask", "query_proj"),
    Row("query_relpos.weight", "age_embedding", "ages"),
    Row("sampling_offsets", "sampling_offsets"),
    Row("attention_weights", "attention_weights", "slots"),
    Row("value_proj", "value_proj"),
    Row("output_proj", "output_proj"),
    Row("ignore_token", "null_value", "reshaped"),
)

QFORMER = (
    Row("queries", "queries", "reshaped"),
    Row("blip2qformer.layernorm", "query_norm"),
    *(
        Row(f"blip2qformer.encoder.layer.{{n}}.{theirs}.{part}", f"layers.{{n}}.{ours}.{our_part}")
        for theirs, ours in (("attention", "self_attention"), ("crossattention", "cross_attention"))
        for part, our_part in (
            ("attention.query", "query_proj"),
            ("attention.key", "key_proj"),
            ("attention.value", "value_proj"),
            ("attention.q_norm", "query_head_norm"),
            ("attention.k_norm", "key_head_norm"),
            ("output.dense", "output_proj"),
            ("output.LayerNorm", "output_norm"),
        )
    ),
    Row("blip2qformer.encoder.layer.{n}.intermediate_query.dense", "layers.{n}.ffn.0"),
    Row("blip2qformer.encoder.layer.{n}.output_query.dense", "layers.{n}.ffn.2"),
    Row("blip2qformer.encoder.layer.{n}.output_query.LayerNorm", "layers.{n}.ffn_norm"),
)

INJECTOR = (
    Row("query_norm", "query_norm"),
    Row("feat_norm", "feature_norm"),
    Row("attn", "attention"),
    Row("gamma", "gamma"),
)

EXTRACTOR = (
    Row("query_norm", "query_norm"),
    Row("feat_norm", "feature_norm"),
    Row("attn", "attention"),
    Row("ffn_norm", "ffn_norm"),
    Row("ffn.fc1", "ffn.fc1"),
    Row("ffn.dwconv.dwconv", "ffn.depthwise"),
    Row("ffn.fc2", "ffn.fc2"),
)

LANGUAGE_SYNCHRONIZER = (Row("gate", "gate"), Row("norm1", "query_norm"), Row("norm2", "feature_norm"))

UNET_SYNCHRONIZER = (Row("query_norm", "query_norm"), Row("feat_norm", "feature_norm"), Row("conv", "conv"))


def under(released: str, ours: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows of a part under these prefixes."""
    return tuple(Row(f"{released}.{row.released}", f"{ours}.{row.ours}", row.layout) for row in rows)


def adapter_rows(num_blocks: int) -> tuple[Row, ...]:
    """A CLIP ViT with its ViT-Adapter, below the release's `vision_model` and our `ViTAdapter`."""
    clip = ("embeddings", "pre_layrnorm", "encoder")
    return (
        *(Row(part, f"vision_model.{part}") for part in clip),
        Row("adapter_level_embed", "level_embedding"),
        Row("adapter_spm.stem", "spatial_prior.stem"),
        *(Row(f"adapter_spm.conv{i + 2}", f"spatial_prior.down.{i}") for i in range(3)),
        *(Row(f"adapter_spm.fc{i + 1}", f"spatial_prior.proj.{i}") for i in range(4)),
        Row("adapter_up", "upsample"),
        *under("adapter_interactions.{n}.injector", "injectors.{n}", INJECTOR),
        *under("adapter_interactions.{n}.extractor", "extractors.{n}", EXTRACTOR),
        *under(f"adapter_interactions.{num_blocks - 1}.extra_extractors.{{n}}", "extra_extractors.{n}", EXTRACTOR),
    )


def language_rows(layers: Iterable[int]) -> tuple[Row, ...]:
    """A LLaMA with synchronizers in these layers, below the release's `mm_decoder` and our `LanguageModel`."""
    rows = [Row(part, f"host.model.{part}") for part in ("embed_tokens", "norm")]
    for part in ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"):
        rows.append(Row(f"layers.{{n}}.{part}", f"host.model.layers.{{n}}.{part}"))
    for i, layer in enumerate(layers):
        theirs, ours = f"layers.{layer}.llama_cross_attn", f"synchronizers.{i}"
        rows += under(theirs, ours, (*LANGUAGE_SYNCHRONIZER, *under("attn", "mmfs", MMFS)))
    return tuple(rows)


def unet_rows(num_skips: int) -> tuple[Row, ...]:
    """The U-Net with synchronizers on its skips, below the release's `decoder` and our `SynchronizedUNet`."""
    block = (*UNET_SYNCHRONIZER, *under("mmfs", "mmfs", MMFS))
    return (
        Row("unet", "host"),
        *under("mmfs_module.mmfs_down_blocks.{n}", "synchronizers.{n}", block),
        *under("mmfs_module.mmfs_mid_block", f"synchronizers.{num_skips}", block),
    )


def rows_of(model: MMInterleaved) -> tuple[Row, ...]:
    """The whole table for a model of this shape.

    Raises:
        ValueError: the model's configuration is none that the release has names for.
    """
    lm, drawing = model.config.language_model, model.config.image_decoder
    if drawing.mmfs_placement != "skips" or drawing.mmfs is None or lm.mmfs is None:
        raise ValueError(
            f"The model has MMFS in the language model: {lm.mmfs is not None}, in the image decoder: "
            f'{drawing.mmfs is not None}, placed "{drawing.mmfs_placement}". The release has names for MMFS in both, '
            'placed "skips"; start from MMInterleavedConfig.released_13b().'
        )
    vision = model.visual_tokenizer.adapter
    layers = range(lm.mmfs_first, len(model.language_model.decoder.layers), lm.mmfs_every)
    return (
        Row("soi_token", "begin_of_image", "reshaped"),
        *under(
            "visual_tokenizer.encoder.vision_model",
            "visual_tokenizer.adapter",
            adapter_rows(len(vision.injectors)),
        ),
        Row("visual_tokenizer.pos_proj", "visual_tokenizer.hidden_proj"),
        Row("visual_tokenizer.pos_ln", "visual_tokenizer.hidden_norm"),
        Row("visual_tokenizer.post_ln", "visual_tokenizer.input_norm"),
        *under("visual_tokenizer.perceiver_resampler", "visual_tokenizer.resampler", QFORMER),
        Row("visual_tokenizer.proj", "visual_tokenizer.resampler.output_proj"),
        *under("mm_decoder", "language_model", language_rows(layers)),
        Row("text_decoder.head", "language_model.host.lm_head"),
        Row("text_decoder.head_new", "language_model.new_token_head"),
        Row("context_feat_proj", "image_decoder.context_proj"),
        *under("image_decoder.perceiver_resampler", "image_decoder.resampler", QFORMER),
        Row("image_decoder.neg_prompt_embeds", "image_decoder.negative_context", "reshaped"),
        *under(
            "image_decoder.decoder",
            "image_decoder.unet",
            unet_rows(len(model.image_decoder.unet.synchronizers) - 1),
        ),
        Row("image_decoder.decoder.vae", "image_decoder.codec.vae"),
    )


class NameTable:
    """Translates single names, the way the rows say."""

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = tuple(rows)
        self._from_released = _patterns((row.released, row.ours, row.layout) for row in rows)
        self._from_ours = _patterns((row.ours, row.released, row.layout) for row in rows)

    def ours(self, released: str) -> tuple[str, Layout]:
        """Our name of a released tensor, and what happens to its layout. Raises ValueError for an unknown name."""
        return _translate(released, self._from_released, "released checkpoint")

    def released(self, ours: str) -> tuple[str, Layout]:
        """The released name of one of our tensors, and the layout. Raises ValueError for an unknown name."""
        return _translate(ours, self._from_ours, "model")


def recomputed(model: MMInterleaved, *, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """What the release stores and this model computes: position tables, CLIP's pixel statistics and position ids."""
    tokenizer = model.visual_tokenizer
    grid = tokenizer.adapter.grid_shape(tokenizer.image_side, tokenizer.image_side)
    patches = sincos_2d(*grid, tokenizer.dim, device=device)
    encoder, config = tokenizer.adapter.encoder, tokenizer.config
    mean, std = config.image_mean or encoder.IMAGE_MEAN, config.image_std or encoder.IMAGE_STD
    tensors = {
        "visual_tokenizer.pos_embed": torch.cat([torch.zeros_like(patches[:1]), patches]),
        "visual_tokenizer.clip_mean": torch.tensor(mean, device=device).view(1, 3, 1, 1),
        "visual_tokenizer.clip_std": torch.tensor(std, device=device).view(1, 3, 1, 1),
        "visual_tokenizer.encoder.vision_model.embeddings.position_ids": torch.arange(
            1 + len(patches), device=device
        ).unsqueeze(0),
    }
    synchronizers = list(model.image_decoder.unet.synchronizers)
    for i, synchronizer in enumerate(synchronizers):
        assert isinstance(synchronizer, UNetSynchronizer)
        place = "mmfs_mid_block" if i == len(synchronizers) - 1 else f"mmfs_down_blocks.{i}"
        side = model.config.image_decoder.mmfs_position_table or 0
        tensors[f"image_decoder.decoder.mmfs_module.{place}.pos_embed"] = sincos_2d(
            side, side, synchronizer.conv.in_channels, device=device
        )
    return tensors


@dataclass(frozen=True)
class Place:
    """Where a released tensor goes."""

    name: str
    """Ours."""

    layout: Layout
    shape: torch.Size
    """Of our tensor."""


def places(released: Iterable[str], model: MMInterleaved) -> dict[str, Place]:
    """The place in `model` of each tensor of a released checkpoint, by its released name; what `recomputed` lists has
    none and need not be there.

    Raises:
        ValueError: names that the model or the checkpoint lacks; the message has the first of them and their number.
    """
    table, expected, left_out = NameTable(rows_of(model)), model.state_dict(), recomputed(model, device="meta")
    found: dict[str, Place] = {}
    unknown: list[str] = []
    for theirs in released:
        if theirs in left_out:
            continue
        try:
            name, layout = table.ours(theirs)
        except ValueError:
            unknown.append(theirs)
            continue
        if name in expected:
            found[theirs] = Place(name, layout, expected[name].shape)
        else:
            unknown.append(theirs)
    missing = sorted(table.released(name)[0] for name in expected.keys() - {place.name for place in found.values()})
    if unknown or missing:
        raise ValueError(
            f"The checkpoint does not fit the configuration: it lacks {len(missing)} tensors {missing[:3]} and has "
            f"{len(unknown)} that the model has no place for {sorted(unknown)[:3]}. Give the configuration that it was "
            "trained with: --config FILE"
        )
    return found


def from_released(weights: Mapping[str, Tensor], model: MMInterleaved) -> dict[str, Tensor]:
    """A released state dict as `model`'s, in the released dtypes.

    Raises:
        ValueError: names that the model or the checkpoint lacks, or shapes that do not fit; the message has them.
    """
    return {
        place.name: our_layout(name, weights[name], place.layout, place.shape)
        for name, place in places(weights, model).items()
    }


def to_released(model: MMInterleaved) -> dict[str, Tensor]:
    """The model's state dict as the release would have stored it, recomputed tensors included."""
    table, tensors = NameTable(rows_of(model)), recomputed(model, device=model.device)
    points = {
        "language_model": model.config.language_model.mmfs,
        "image_decoder": model.config.image_decoder.mmfs,
    }
    for name, tensor in model.state_dict().items():
        released, layout = table.released(name)
        mmfs = points.get(name.split(".")[0])
        tensors[released] = released_layout(released, tensor, layout, mmfs.num_points if mmfs is not None else 0)
    return tensors


def our_layout(name: str, tensor: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
    """A released tensor as one of ours of this shape. Raises ValueError if it cannot be."""
    before = tensor.shape
    if layout == "reshaped" and tensor.numel() == shape.numel():
        tensor = tensor.reshape(shape)
    elif layout == "ages":  # [1 + A, C]
        tensor = tensor[1:]
    elif layout == "slots" and before[0] > shape[0]:  # [H*L*(P + 1), ...]: one slot more for each head and level
        tensor = tensor.unflatten(0, (before[0] - shape[0], -1))[:, :-1].flatten(0, 1)
    if tensor.shape != shape:
        raise ValueError(f"{name} is {list(before)}, which does not become {list(shape)} ({layout}); the sizes differ.")
    return tensor


def released_layout(name: str, tensor: Tensor, layout: Layout, num_points: int) -> Tensor:
    """The inverse of `our_layout`; `num_points` is P of the MMFS layer that the tensor belongs to."""
    if layout == "reshaped":
        return tensor.view(1, 1, 1, -1) if name.endswith("ignore_token") else tensor.unsqueeze(0)
    if layout == "ages":
        return F.pad(tensor, (0, 0, 1, 0))
    if layout == "slots":  # [H*L*P, ...]
        slots = tensor.unflatten(0, (-1, num_points))
        return torch.cat([slots, torch.zeros_like(slots[:, :1])], dim=1).flatten(0, 1)
    return tensor


_Patterns = list[tuple[re.Pattern[str], str, Layout]]


def _patterns(rows: Iterable[tuple[str, str, Layout]]) -> _Patterns:
    """Sort key, the most specific first: longer names before shorter ones, a number before {n}."""
    ordered = sorted(rows, key=lambda row: len(row[0].replace("{n}", "")), reverse=True)
    number = r"(\d+)"
    return [
        (re.compile(re.escape(source).replace(r"\{n\}", number) + r"(?=\.|$)"), target, layout)
        for source, target, layout in ordered
    ]


def _translate(name: str, patterns: _Patterns, owner: str) -> tuple[str, Layout]:
    for pattern, target, layout in patterns:
        if match := pattern.match(name):
            for number in match.groups():
                target = target.replace("{n}", number, 1)
            return target + name[match.end() :], layout
    raise ValueError(f"{name} of the {owner} is not in the table of names; models/released/names.py lists the parts.")
