"""Pre-trained networks with random weights, tiny, in the formats that transformers and diffusers store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

from models import MMInterleavedConfig

VOCABULARY = 260
"""Of the language models: two more than their tokenizer has tokens."""

LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "gemma3_text": {
        "head_dim": 8,
        "query_pre_attn_scalar": 16,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    },
    "phi3": {"partial_rotary_factor": 0.5, "sliding_window": 4, "pad_token_id": 0},
}
U_NETS: dict[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 24, "attention_head_dim": 2},
    "sd2": {"cross_attention_dim": 32, "attention_head_dim": (2, 4), "use_linear_projection": True},
    "sdxl": {  # its text encoders are 12 and 20 channels wide
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 32,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 20,
    },
}


def like(*, gate: float = 0.0) -> MMInterleavedConfig:
    """What joins the parts, at its smallest."""
    tiny = MMInterleavedConfig.tiny()
    return replace(tiny, language_model=replace(tiny.language_model, gate_init=gate))


VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
VISION_ENCODERS = ("clip", "clip image half", "siglip", "siglip image half", "dinov2", "dinov2_with_registers")


def write_vision_encoder(folder: Path, kind: str) -> Path:
    """A vision encoder without `preprocessor_config.json`. Of a SigLIP 2 of fixed resolution, the type is siglip."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text["vocab_size"] = 50
    with_mlp = {**VIT, "intermediate_size": 32}
    clip = CLIPConfig(vision_config={**with_mlp, "initializer_factor": 4.0}, text_config=text)
    siglip = SiglipConfig(vision_config=with_mlp, text_config=text)
    lively = {"mlp_ratio": 2, "initializer_range": 0.2}
    match kind:
        case "clip":
            CLIPModel(clip).save_pretrained(folder)
        case "clip image half":
            CLIPVisionModel(clip.vision_config).save_pretrained(folder)
        case "siglip":
            SiglipModel(siglip).save_pretrained(folder)
        case "siglip image half":
            SiglipVisionModel(siglip.vision_config).save_pretrained(folder)
        case "dinov2":
            Dinov2Model(Dinov2Config(**VIT, **lively)).save_pretrained(folder)
        case "dinov2_with_registers":
            registers = Dinov2WithRegistersConfig(**VIT, **lively, num_register_tokens=3)
            Dinov2WithRegistersModel(registers).save_pretrained(folder)
        case _:
            raise ValueError(kind)
    return folder


def write_clip(folder: Path, *, image_half: bool = False) -> Path:
    write_vision_encoder(folder, "clip image half" if image_half else "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return folder


def byte_tokenizer(*special: str) -> Tokenizer:
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def write_tokenizer(folder: Path, *special: str, **named: str) -> Path:
    special = special or ("<s>", "</s>")
    named = named or {"bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(*special), **named).save_pretrained(folder)
    return folder


def language_model_settings(kind: str) -> dict[str, Any]:
    """Arguments of `AutoConfig.for_model(kind)`."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.2,
        **LANGUAGE_MODELS[kind],
    }


def write_language_model(folder: Path, kind: str = "llama", *, shard: str = "1GB", **changes: Any) -> Path:
    config = AutoConfig.for_model(kind, **{**language_model_settings(kind), **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size=shard)
    return write_tokenizer(folder)


def write_diffusion(folder: Path, kind: str = "sd1", **unet_changes: Any) -> Path:
    unet = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
        **U_NETS[kind],
        **unet_changes,
    }
    UNet2DConditionModel(**unet).save_pretrained(folder / "unet")
    vae = {
        "block_out_channels": (8,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 4,
        "sample_size": 64,
        "scaling_factor": 0.3,
    }
    AutoencoderKL(**vae).save_pretrained(folder / "vae")
    schedule = {"beta_start": 0.001, "beta_end": 0.01, "beta_schedule": "scaled_linear"}
    DDIMScheduler(**schedule, prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    return folder


def write_text_encoder(
    folder: Path, suffix: str = "", *, num_tokens: int = 3, width: int = 24, num_layers: int = 1
) -> CLIPTextModel:
    """Into a diffusion snapshot, with a tokenizer of four words. The second one of SDXL ("_2") projects its pooled
    output."""
    words = ["!", "<|startoftext|>", "<|endoftext|>", "a</w>"]
    tokenizer = folder / f"tokenizer{suffix}"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "model_max_length": num_tokens}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        max_position_embeddings=num_tokens,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_factor=4.0,
    )
    encoder = (CLIPTextModelWithProjection if suffix else CLIPTextModel)(config).eval()
    encoder.save_pretrained(folder / f"text_encoder{suffix}")
    return encoder


def write_sdxl(folder: Path, *, zeros_for_empty_prompt: bool = True, **unet_changes: Any) -> Path:
    """A whole Stable Diffusion XL, which diffusers' own pipeline loads."""
    write_diffusion(folder, "sdxl", **unet_changes)
    write_text_encoder(folder, width=12, num_layers=2)
    write_text_encoder(folder, "_2", width=20, num_layers=2)
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": zeros_for_empty_prompt,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
