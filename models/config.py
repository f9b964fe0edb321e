"""The sizes and choices of a model, as plain data that travels in `config.json`, and three ready ones."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.atomic_files import write_atomically
from models.component_configs import (
    STABLE_DIFFUSION_VAE,
    TOKEN_IDS,
    ImageDecoderConfig,
    LanguageModelConfig,
    QFormerConfig,
    SynchronizerConfig,
    VisualTokenizerConfig,
    check_fields,
)
from models.json_files import read_json, shortened

RENAMED_KEYS = {"vision": "visual_tokenizer", "clip": "vision_encoder", "pooling_norm": "pooling_head"}
"""Keys of files that earlier versions wrote, and what they are called now."""


CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class MMInterleavedConfig:
    """The whole model."""

    visual_tokenizer: VisualTokenizerConfig
    language_model: LanguageModelConfig
    image_decoder: ImageDecoderConfig
    image_loss_weight: float = 10.0
    """Lambda of paper Eq. 5."""

    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    begin_of_image_id: int = 3
    image_token_id: int = 4

    def __post_init__(self) -> None:
        check_fields(self)

    def check_token_ids(self, vocabulary_size: int) -> None:
        """Look whether the five tokens that the model itself knows are in its vocabulary, and those of images apart
        from all others.

        Raises:
            ValueError: one is not; the message names it.
        """
        for name in TOKEN_IDS:
            if getattr(self, name) >= vocabulary_size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected one of the vocabulary's {vocabulary_size}, from 0 on."
                )
        for name in ("begin_of_image_id", "image_token_id"):
            if same := [other for other in TOKEN_IDS if other != name and getattr(self, other) == getattr(self, name)]:
                raise ValueError(
                    f"{name} and {same[0]} are both {getattr(self, name)}; expected a token of its own for each."
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the model reads."""
        return self.visual_tokenizer.resolved_image_size

    @property
    def drawn_image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the model draws."""
        return self.image_decoder.drawn_image_size

    @classmethod
    def tiny(cls) -> MMInterleavedConfig:
        """Every part at its smallest, with a VAE: what the tests build."""
        sync = SynchronizerConfig(num_heads=2, num_points=2, value_dim=16, max_age=4)
        return cls(
            visual_tokenizer=VisualTokenizerConfig(
                vision_encoder={
                    "model_type": "clip_vision_model",
                    "hidden_size": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "intermediate_size": 32,
                    "image_size": 32,
                    "patch_size": 8,
                },
                num_visual_tokens=2,
                resampler_dim=16,
                resampler_layers=1,
                resampler_heads=2,
                adapter_blocks=2,
                adapter_heads=2,
                adapter_points=2,
                prior_channels=8,
            ),
            language_model=LanguageModelConfig(
                transformer={
                    "model_type": "llama",
                    "vocab_size": 1024,
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 2,
                    "max_position_embeddings": 512,
                },
                mmfs=sync,
                mmfs_every=2,
                gate_init=0.3,
            ),
            image_decoder=ImageDecoderConfig(
                image_size=32,
                unet={
                    "sample_size": 16,
                    "in_channels": 4,
                    "out_channels": 4,
                    "block_out_channels": (8, 16),
                    "layers_per_block": 1,
                    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                    "cross_attention_dim": 16,
                    "attention_head_dim": 2,
                    "norm_num_groups": 4,
                },
                vae={
                    "block_out_channels": (8, 8),
                    "down_block_types": ("DownEncoderBlock2D",) * 2,
                    "up_block_types": ("UpDecoderBlock2D",) * 2,
                    "latent_channels": 4,
                    "norm_num_groups": 4,
                    "sample_size": 32,
                    "scaling_factor": 0.5,
                },
                num_context_tokens=3,
                resampler_heads=2,
                mmfs=sync,
            ),
        )

    @classmethod
    def toy(cls) -> MMInterleavedConfig:
        """About 6 M parameters for the emoji world: reads 64-pixel images, draws 32-pixel ones, learns on a CPU."""
        return cls(
            visual_tokenizer=VisualTokenizerConfig(
                vision_encoder={
                    "model_type": "clip_vision_model",
                    "hidden_size": 128,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                    "intermediate_size": 256,
                    "image_size": 64,
                    "patch_size": 8,
                },
                num_visual_tokens=4,
                resampler_dim=128,
                resampler_layers=2,
                resampler_heads=4,
                visual_token_init=0.05,
                adapter_blocks=2,
                adapter_heads=4,
                prior_channels=24,
                prior_scale=8,
                image_mean=(0.5, 0.5, 0.5),
                image_std=(0.25, 0.25, 0.25),
            ),
            language_model=LanguageModelConfig(
                transformer={
                    "model_type": "llama",
                    "vocab_size": 1024,
                    "hidden_size": 128,
                    "intermediate_size": 344,
                    "num_hidden_layers": 5,
                    "num_attention_heads": 4,
                    "max_position_embeddings": 512,
                    "initializer_range": 0.06,  # about 1/sqrt(hidden_size); the usual 0.02 is for wide models
                },
                # A grid of 4 x 4 points over the whole image, so that some point is near every object.
                mmfs=SynchronizerConfig(
                    num_heads=4, num_points=4, value_dim=128, max_age=8, offset_init="grid", offset_init_cells=8.0
                ),
                mmfs_every=2,
                mmfs_levels=(1, 3),
                gate_init=0.5,
                embedding_skip=16.0,  # embeddings of 0.06 come to the size of the normalised state
            ),
            image_decoder=ImageDecoderConfig(
                image_size=32,
                pixel_fold=4,
                unet={
                    "sample_size": 8,
                    "in_channels": 48,
                    "out_channels": 48,
                    "block_out_channels": (96, 64),
                    "layers_per_block": 1,
                    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                    "cross_attention_dim": 128,
                    "attention_head_dim": 4,
                    "norm_num_groups": 16,
                },
                # Folded pixels have more channels of noise than a narrow U-Net can pass on: it predicts the image.
                scheduler={"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
                num_context_tokens=8,
                resampler_heads=4,
                mmfs=SynchronizerConfig(num_heads=4, num_points=4, value_dim=128, max_age=8, offset_init_cells=1.0),
            ),
        )

    @classmethod
    def released_13b(cls) -> MMInterleavedConfig:
        """The released model: Vicuna 13B, CLIP ViT-L/14, Stable Diffusion 2.1 base, and the release's choice
        wherever its code and the paper differ."""
        return cls(
            visual_tokenizer=VisualTokenizerConfig(
                vision_encoder={
                    "model_type": "clip_vision_model",
                    "hidden_size": 1024,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "intermediate_size": 4096,
                    "image_size": 224,
                    "patch_size": 14,
                    "hidden_act": "quick_gelu",
                },
                qformer=QFormerConfig(qk_norm=True, dropout=0.1),
                resampler_input="projected",
                position_table=True,
                pooling_head=False,
            ),
            language_model=LanguageModelConfig(
                transformer={
                    "model_type": "llama",
                    "vocab_size": 32002,
                    "hidden_size": 5120,
                    "intermediate_size": 13824,
                    "num_hidden_layers": 40,
                    "num_attention_heads": 40,
                    "max_position_embeddings": 2048,
                    "rms_norm_eps": 1e-6,
                    "tie_word_embeddings": False,
                },
                mmfs=SynchronizerConfig(max_age=49),
                packing="causal",
                new_tokens=2,
            ),
            image_decoder=ImageDecoderConfig(
                unet={
                    "sample_size": 64,
                    "in_channels": 4,
                    "out_channels": 4,
                    "block_out_channels": (320, 640, 1280, 1280),
                    "layers_per_block": 2,
                    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
                    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
                    "cross_attention_dim": 1024,
                    "attention_head_dim": (5, 10, 20, 20),
                    "use_linear_projection": True,
                },
                vae={**STABLE_DIFFUSION_VAE, "sample_size": 512, "scaling_factor": 0.18215},
                qformer=QFormerConfig(cross_every=1, dropout=0.1),
                mmfs=SynchronizerConfig(max_age=9, offset_init_cells=1.0),
                mmfs_placement="skips",
                mmfs_position_table=64,
                context_images="previous",
            ),
            pad_token_id=31999,
            bos_token_id=1,
            eos_token_id=2,
            begin_of_image_id=32000,
            image_token_id=32001,
        )

    def without_mmfs(self) -> MMInterleavedConfig:
        """The same model with its synchronizers taken out: the baseline of the paper's Table 5."""
        return dataclasses.replace(
            self,
            language_model=dataclasses.replace(self.language_model, mmfs=None),
            image_decoder=dataclasses.replace(self.image_decoder, mmfs=None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MMInterleavedConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a key that this version does not know, one that is missing, or a word that is none of a field's
                choices; the message names it.
        """
        return _build(cls, values, "config")

    def save(self, path: str | Path) -> None:
        """Write `path` as JSON."""
        write_atomically(Path(path), json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> MMInterleavedConfig:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged, or as for `from_dict`; the message names it.
        """
        values = read_json(Path(path))
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _build(kind: Any, values: Any, where: str) -> Any:
    """A (nested) dataclass from plain data; tuples come back as tuples."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {shortened(values)}; expected the settings of a {kind.__name__} by name.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if renamed := sorted(
        f"{key} to {RENAMED_KEYS[key]}" for key in values.keys() & RENAMED_KEYS.keys() - fields.keys()
    ):
        raise ValueError(f"{where} was written by an earlier version. Rename in the file: {', '.join(renamed)}.")
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"{where} has unknown keys {unknown}; {kind.__name__} knows {sorted(fields)}.")
    needed = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - values.keys()):
        raise ValueError(f"{where} lacks {missing}, which a {kind.__name__} has no default for.")
    return kind(**{name: _restore(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _restore(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        hint = next((kind for kind in kinds if typing.get_origin(kind) is tuple), kinds[0])
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    return tuple(value) if isinstance(value, list) and typing.get_origin(hint) is tuple else value
