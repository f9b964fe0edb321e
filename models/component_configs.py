"""The sizes and choices of each part of a model.

Dictionaries named after a transformers or diffusers class are that class's own keyword arguments.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from models.json_files import shortened

STABLE_DIFFUSION_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}
"""`AutoencoderKL` arguments that all of Stable Diffusion 1.x, 2.x and XL share."""


NUM_LEVELS = 4
"""Of the pyramid of features."""

MOST = 2**31
"""No number of anything in a model is larger."""

LARGEST = (2 - 2**-23) * 2.0**127
"""Of float32, which every fraction among the settings becomes."""

TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "begin_of_image_id", "image_token_id")
"""Settings of the whole model: the tokens that it knows itself."""

FROM_ZERO = frozenset((*TOKEN_IDS, "mmfs_first", "mmfs_levels", "new_tokens", "new_tokens_from"))
"""Settings that may be 0; of the others, a whole number is 1 or more."""

SHARES = frozenset(("text_drop", "image_drop", "dropout", "timestep_bias_portion"))
"""Settings from 0 to 1."""


def check_fields(config: object) -> None:
    """Refuse what would fail later, or be computed wrongly: a value of another type, a number of nothing, a word that
    is none of a field's choices (code that tests for one of two would treat it as the other).

    Args:
        config: a dataclass of this file or of `models/config.py`.

    Raises:
        ValueError: such a value; the message names the field.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _is_of(hint, value):
            choices = typing.get_args(hint)
            is_choice = typing.get_origin(hint) is Literal
            expected = " or ".join(map(repr, choices)) if is_choice else _words(hint)
            raise ValueError(f"{type(config).__name__} has {name} {shortened(value)}; expected {expected}.")
        least = 0 if name in FROM_ZERO else 1
        for number in value if isinstance(value, tuple | list) else (value,):
            is_whole = isinstance(number, int) and not isinstance(number, bool)
            if is_whole and int in _kinds(hint) and not least <= number <= MOST:
                raise ValueError(
                    f"{type(config).__name__} has {name} {shortened(value)}; expected {least} or more, and at most "
                    f"{MOST}."
                )
        if name in SHARES and not 0 <= value <= 1:
            raise ValueError(f"{type(config).__name__} has {name} {value}; expected a share from 0 to 1.")


def _is_of(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotated type; lists are taken for tuples, whole numbers for fractions."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(part, value) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        same = isinstance(value, tuple | list) and len(value) == len(parts)
        return same and all(_is_of(part, one) for part, one in zip(parts, value, strict=True))
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float) and abs(value) <= LARGEST
    return isinstance(value, hint)


def _kinds(hint: Any) -> set[Any]:
    parts = typing.get_args(hint)
    return {hint}.union(*map(_kinds, parts)) if parts else {hint}


def _words(hint: Any) -> str:
    """A type in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in parts)
    if origin is tuple:
        return f"{len(parts)} of {_words(parts[0])}"
    if origin is dict:
        return "values by name"
    simple = {
        int: "a whole number",
        float: "a number within float32",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    return simple.get(hint) or f"the settings of a {hint.__name__}"


@dataclass(frozen=True)
class QFormerConfig:
    """What a Q-Former has beyond the sizes that it shares with the Perceiver resampler."""

    cross_every: int = 2
    """Layers 0, n, 2n, ... read the inputs, so that the release's 12 layers read them six times."""

    ffn_dim: int = 3072
    qk_norm: bool = False

    dropout: float = 0.0
    """In training, the share of attention weights and of each sub-layer's output that is set to 0. 0: none (the paper
    speaks of none). The release trained with BERT's 0.1."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class VisualTokenizerConfig:
    """The image tokenizer (paper 3.2, part 1): a ViT, the ViT-Adapter's pyramid, a resampler."""

    vision_encoder: dict[str, Any]
    """`model_type`, one of those in `models/vision_encoders/families.py`, and arguments of that type's configuration in
    transformers; `image_size` and `patch_size` in pixels."""

    image_size: tuple[int, int] | None = None
    """(height, width) of the images that the model reads, pixels, multiples of the patch size. None: the
    encoder's own square. Its position table keeps the size it was trained with and is interpolated."""

    num_visual_tokens: int = 64
    qformer: QFormerConfig | None = None
    """None: the tokens are made by a Perceiver resampler (the paper). Otherwise by a Q-Former (the release)."""

    resampler_dim: int = 768
    resampler_layers: int = 12
    resampler_heads: int = 12
    resampler_input: Literal["normed", "projected"] = "normed"
    """How positions are added to the ViT's last hidden state h before the resampler. "normed": `norm(h) + position`.
    "projected": `norm(norm(linear(h)) + position)` (the release; the paper adds no positions)."""

    visual_token_init: float = 1e-3
    """Standard deviation of the weights that make visual tokens. The release's 1e-3 starts them as small as a
    pre-trained LM's embeddings. When training from scratch, the tokens of all images are then nearly the same
    (measured: they differ by 0.8 % of a token's size after 200 steps), and 0.05 is better."""

    adapter_blocks: int = 4
    adapter_heads: int = 16
    adapter_points: int = 4
    prior_channels: int = 64
    prior_scale: int = 16
    """Pixels of the spatial prior's input per ViT patch: a multiple of 8, or the patch size. 16: levels of 4, 2, 1 and
    1/2 times the patch grid, 64 to 8 for 224 pixels (the release). The patch size, 14: levels of 1/4 to 1/32 of the
    image, 56 to 7 (the paper)."""

    position_table: bool = False
    """Positions of the maps. False: sine and cosine at each pixel's own place. True: the table of the patch grid,
    resized to each map (the release)."""

    pooling_head: bool = True
    """Keep the weights that only the encoder's pooled output needs: nothing here uses it, and the release left them
    out."""

    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    """Of pixels in [0, 1], as the encoder was trained. None: as its family is trained."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.image_std is not None and min(self.image_std) <= 0:
            raise ValueError(f"VisualTokenizerConfig has image_std {self.image_std}; expected numbers above 0.")

    @property
    def resolved_image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the model reads: `image_size`, or the vision encoder's own."""
        side = self.vision_encoder["image_size"]
        return self.image_size or (side, side)


@dataclass(frozen=True)
class SynchronizerConfig:
    """One kind of MMFS block (paper Eq. 4)."""

    num_heads: int = 16
    num_points: int = 8
    value_dim: int = 1024
    """Width of the projected features, all heads together."""

    max_age: int = 50
    """Images older than this share the oldest position embedding."""

    null: bool = True
    """Add a null slot to the softmax, so that weights may sum to less than 1 (the release). False: the paper's plain
    softmax."""

    image_positions: Literal["age", "index"] = "age"
    """What PosEmbed counts. "age": backward from the newest visible image (the release). "index": forward from the
    first visible image (the paper's m). Beyond `max_age`, images share the last row."""

    offset_unit: Literal["cell", "image"] = "cell"
    """What a predicted offset of 1 is. "cell": 1/16 of the image in the language model, a pixel of its own map in the
    U-Net (the release). "image": a whole image, as reference points are measured (the paper's p + delta p)."""

    offset_init: Literal["uniform", "grid"] = "uniform"
    offset_init_cells: float = 3.0
    """Half the width of the region where the points of a fresh layer lie, in cells. If the unit is an image, in
    sixteenths of it."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class LanguageModelConfig:
    """The multi-modal language model (paper 3.2, part 2)."""

    transformer: dict[str, Any]
    """`AutoConfig.for_model` arguments, with `model_type`: one of those in `models/language_models/families.py`."""

    mmfs: SynchronizerConfig | None = field(default_factory=SynchronizerConfig)
    """None: the same language model without MMFS."""

    mmfs_every: int = 4
    """An MMFS block in every n-th layer."""

    mmfs_first: int = 0
    """The first layer with an MMFS block. 0: layers 0, n, 2n, ... (the release); n - 1: the last of every n layers (the
    other reading of the paper's "every 4 blocks")."""

    mmfs_levels: tuple[int, int] = (1, 4)
    """First and one-past-last level of the pyramid that the language model samples; level 0 is the finest."""

    gate_init: float = 0.0
    """Initial alpha of tanh(alpha). 0 is the paper's, for a pre-trained LM; 0.1 to 0.5 when training from scratch,
    where a gate of 0 leaves MMFS unused."""

    embedding_skip: float = 0.0
    """How much of a token's embedding is added to its final state. Trained from random weights, that state soon
    encodes the next word and hardly the present one (bench/LOG.md), which the image decoder has to know. 0: the state
    alone (the paper and the release)."""

    packing: Literal["document", "causal"] = "document"
    """What a token of a packed row attends to. "document": its own document, with positions counted from its start.
    "causal": everything before it in the row, other documents too, with positions counted along the row (the
    release). For a document alone in its row both are the same."""

    new_tokens: int = 0
    """How many tokens were added to a pre-trained LM, at the end of the vocabulary: a small head of their own adds to
    their logits, and the host's head then has a bias (the release: 2). 0: the host's head alone."""

    new_tokens_from: int | None = None
    """Id of the first of these tokens. None: the host's own tables were widened for them (the release). A number: the
    host stays as it was. These ids have embeddings of 0, to which `<BoI>` adds its own, and logits from the small head
    alone; they follow the host's vocabulary, or use ids in it that its tokenizer left free."""

    def __post_init__(self) -> None:
        check_fields(self)
        first, end = self.mmfs_levels
        if not first < end <= NUM_LEVELS:
            raise ValueError(
                f"LanguageModelConfig has mmfs_levels {self.mmfs_levels}; expected the first level and one more "
                f"than the last, of levels 0 to {NUM_LEVELS - 1}."
            )

    @property
    def max_tokens(self) -> int | None:
        """Tokens that a document may have; None: any number. For LongRoPE this is the length of the first training,
        because only the short set of rotary frequencies is used."""
        rotary = self.transformer.get("rope_parameters") or {}
        if rotary.get("rope_type") == "longrope":
            settings = {**self.transformer, **rotary}
            return settings.get("original_max_position_embeddings", settings.get("max_position_embeddings"))
        return self.transformer.get("max_position_embeddings")


@dataclass(frozen=True)
class ImageDecoderConfig:
    """The diffusion image decoder (paper 3.2, part 3)."""

    unet: dict[str, Any]
    """`UNet2DConditionModel` arguments."""

    image_size: int | tuple[int, int] = 512
    """Of a drawn image, pixels: the side of a square, or (height, width); multiples of what one latent pixel covers."""

    vae: dict[str, Any] | None = None
    """`AutoencoderKL` arguments; None: diffusion on pixels, folded by `pixel_fold`."""

    pixel_fold: int = 1
    """Without a VAE: squares of this side become the channels of one latent pixel (exact and invertible)."""

    scheduler: dict[str, Any] = field(
        default_factory=lambda: {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": False,
        }
    )
    """`DDPMScheduler` arguments: the noise schedule and what the U-Net predicts."""

    num_context_tokens: int = 77
    qformer: QFormerConfig | None = None
    """None: the context is read by a Perceiver resampler (the paper). Otherwise by a Q-Former (the release)."""

    resampler_layers: int = 1
    resampler_heads: int = 16
    mmfs: SynchronizerConfig | None = field(
        default_factory=lambda: SynchronizerConfig(max_age=10, offset_init_cells=1.0)
    )
    """None: the same image decoder without MMFS."""

    mmfs_placement: Literal["up", "skips"] = "up"
    """"up": after each up-sampling block (the paper). "skips": on the down path's residuals and the middle block
    (the released weights)."""

    mmfs_position_table: int | None = None
    """Positions of the U-Net's pixels as queries. None: sine and cosine of their own rows and columns. n: a table of
    n x n cells, resized to each map (the release: 64)."""

    context_images: Literal["all", "previous"] = "all"
    """Which images of the document a drawn image may attend to. "all": those before it (the paper). "previous": only
    the nearest (the release)."""

    text_drop: float = 0.1
    """Share of training images whose text condition is replaced by the learned negative context (paper B.1)."""

    image_drop: float = 0.0
    """Share of training images that may not attend to any image. 0: the paper and the release, which drop only text;
    above, the U-Net also learns what guidance by images needs: a prediction without them."""

    timestep_bias_multiplier: float = 1.0
    """How many times as often as any other time step training draws one of the noisiest, where it is decided what will
    stand where; the "later" bias of diffusers' training scripts. 1: all alike (the paper and the release)."""

    timestep_bias_portion: float = 0.25
    """The share of the time steps that are the noisiest."""

    def __post_init__(self) -> None:
        check_fields(self)
        multiplier = self.timestep_bias_multiplier
        if multiplier <= 0:
            raise ValueError(
                f"ImageDecoderConfig has timestep_bias_multiplier {multiplier}; expected a number above 0."
            )

    @classmethod
    def sdxl_base(cls) -> ImageDecoderConfig:
        """The arguments of Stable Diffusion XL base 1.0 (arXiv:2307.01952), which draws at 1024 px: a U-Net of 2.57 G
        parameters, deepest where its maps are smallest."""
        return cls(
            unet={
                "sample_size": 128,
                "in_channels": 4,
                "out_channels": 4,
                "block_out_channels": (320, 640, 1280),
                "layers_per_block": 2,
                "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
                "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "cross_attention_dim": 2048,
                "attention_head_dim": (5, 10, 20),
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 6 * 256 + 1280,
            },
            image_size=1024,
            vae={
                **STABLE_DIFFUSION_VAE,
                "sample_size": 1024,
                "scaling_factor": 0.13025,
                "force_upcast": True,
            },
        )

    @property
    def drawn_image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the model draws."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
