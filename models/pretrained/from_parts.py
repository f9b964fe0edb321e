"""An MM-Interleaved from pre-trained parts: a vision encoder, a causal language model and a Stable Diffusion
(paper 4, B.1).

The layers that join them (ViT-Adapter, resamplers, synchronizers, the embedding of `<BoI>`) is new and untrained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from models.component_configs import ImageDecoderConfig, LanguageModelConfig, VisualTokenizerConfig
from models.config import MMInterleavedConfig
from models.frozen import MODULE_NAMES, PAPER_FROZEN, FrozenComponent, freeze, known_components
from models.image_codec import vae_dtype
from models.loading_options import float_dtype
from models.network import Network
from models.pretrained.diffusion_snapshots import diffusion_settings, empty_prompt, load_unet, load_vae
from models.pretrained.snapshots import (
    SD_2_1,
    PretrainedComponents,
    Source,
    language_model_settings,
    load_language_model,
    load_vision_encoder,
    pixel_statistics,
    vision_encoder_settings,
)
from models.pretrained.tokenizer import ExtendedTokenizer, extended_tokenizer
from models.processor import MMInterleavedProcessor
from models.torch_defaults import usual_torch_defaults
from models.uninitialized import uninitialized

Model = TypeVar("Model", bound=Network)

Name = str | os.PathLike[str]
"""Of a local directory, or on the hub."""

CLIP_L = "openai/clip-vit-large-patch14"
VICUNA_13B = "lmsys/vicuna-13b-v1.3"

ALIGNMENT = 64
"""Bytes: PyTorch allocates memory on a CPU at multiples of this (c10/core/alignment.h)."""


@usual_torch_defaults()
def from_parts(
    make: Callable[[MMInterleavedConfig, MMInterleavedProcessor, PretrainedComponents | None], Model],
    *,
    vision_encoder: Name = CLIP_L,
    language_model: Name = VICUNA_13B,
    image_decoder: Name = SD_2_1,
    tokenizer: Name | None = None,
    like: MMInterleavedConfig | None = None,
    image_size: int | tuple[int, int] | None = None,
    drawn_image_size: int | tuple[int, int] | None = None,
    dtype: torch.dtype | str = torch.float32,
    language_model_dtype: torch.dtype | str | None = None,
    language_model_bits: Literal[4, 8] | None = None,
    device: torch.device | str = "cpu",
    frozen: Iterable[FrozenComponent] = PAPER_FROZEN,
    negative_context: Literal["new", "empty_prompt"] = "new",
    local_files_only: bool = False,
    read_weights: bool = True,
) -> Model:
    """A model with the parts' weights, in evaluation mode.

    The parts do not change: until MMFS is trained, each computes what it computes alone. The vocabulary's tables do not
    grow either; `<BoI>` has an embedding and logits of its own.

    Args:
        make: the model of a configuration, a processor and the parts, which fit; `MMInterleaved`.
        vision_encoder: a ViT in the format of transformers, of a type that `models/vision_encoders/families.py` lists,
            or a model that has it as its image half. The default is the paper's, as below.
        language_model: a causal LM in the format of transformers, of a type that `models/language_models/families.py`
            lists.
        image_decoder: a Stable Diffusion 1.x, 2.x or XL in the format of diffusers: U-Net, VAE and noise schedule.
        tokenizer: where the tokenizer is; None: with the language model.
        like: everything that the parts do not say: the sizes of what joins them, and on which side of each difference
            between paper and release to stand. None: what a configuration has by default.
        image_size: of the images that are read, pixels: a side or (height, width), multiples of the patch size. None:
            what the vision encoder was trained with; for other sizes its position embeddings are interpolated.
        drawn_image_size: of the images that are drawn, pixels: a side or (height, width). None: what the U-Net was
            trained with.
        dtype: of all weights, a float type or its name. SDXL's VAE overflows float16 and stays float32 instead.
        language_model_dtype: of the language model's weights; None: `dtype`.
        language_model_bits: store the matrices of the language model's layers in 8 or 4 bits (bitsandbytes). Such a
            model runs and trains what is not frozen.
        device: where the weights are to be.
        frozen: the parts that get no gradients; see `models.frozen.freeze`.
        negative_context: what the learned condition "no text" starts from. "new": random numbers. "empty_prompt": what
            the text encoder of `image_decoder` makes of "" (the release), as its U-Net was trained, or the zeros that
            SDXL was trained with; the snapshot then needs its `text_encoder/` and `tokenizer/`, of SDXL
            `model_index.json` (see `models.pretrained.diffusion_snapshots.empty_prompt`).
        local_files_only: use no network: hub names are looked up in the local cache.
        read_weights: False: the same model with undefined weights, for a process that gets them from another one; no
            weight is read.

    Raises:
        FileNotFoundError: a part was not found, or is not complete.
        ValueError: a part is of another kind, or sizes do not fit; before any weight is read.
        ImportError: `language_model_bits` without bitsandbytes.
    """
    dtype = float_dtype(dtype)
    lm_dtype = dtype if language_model_dtype is None else float_dtype(language_model_dtype)
    device = torch.device(device)
    vision_source = Source(os.fspath(vision_encoder), "vision encoder", local_files_only)
    lm_source = Source(os.fspath(language_model), "language model", local_files_only)
    decoder_source = Source(os.fspath(image_decoder), "image decoder", local_files_only)
    if language_model_bits not in (None, 4, 8):
        raise ValueError(f"language_model_bits is {language_model_bits}; expected 8, 4, or None for all bits.")
    frozen = known_components(frozen)
    if language_model_bits is not None and "language_model" not in frozen:
        raise ValueError(
            "A quantised language model can't be trained; name it in frozen, or leave language_model_bits."
        )

    if negative_context not in ("new", "empty_prompt"):
        raise ValueError(f"negative_context is {negative_context!r}; expected 'new' or 'empty_prompt'.")
    base = like or MMInterleavedConfig(VisualTokenizerConfig({}), LanguageModelConfig({}), ImageDecoderConfig({}))
    transformer = language_model_settings(lm_source)
    tokens = extended_tokenizer(
        lm_source if tokenizer is None else Source(os.fspath(tokenizer), "tokenizer", local_files_only), transformer
    )
    config = replace(
        base,
        visual_tokenizer=_visual_tokenizer_config(base.visual_tokenizer, vision_source, image_size),
        language_model=_language_model_config(base.language_model, transformer, tokens),
        image_decoder=_image_decoder_config(base.image_decoder, decoder_source, drawn_image_size),
        **tokens.ids,
    )
    height, width = config.image_size
    processor = MMInterleavedProcessor(tokens.tokenizer, image_size=height if height == width else (height, width))
    if not read_weights:
        model = uninitialized(lambda: make(config, processor, None))
        _have_types(model, dtype, lm_dtype, vae_dtype(config.image_decoder, dtype))
        freeze(model, frozen)
        return model.eval()
    no_text: dict[str, torch.Tensor] = {}
    if negative_context == "empty_prompt":
        no_text = empty_prompt(decoder_source, config.image_decoder)
    pretrained = PretrainedComponents(
        vision_encoder=load_vision_encoder(vision_source, dtype),
        language_model=load_language_model(lm_source, lm_dtype, language_model_bits, device),
        unet=load_unet(decoder_source, dtype),
        vae=load_vae(decoder_source, vae_dtype(config.image_decoder, dtype)),
    )
    model = make(config, processor, pretrained)
    # `<BoI>` starts as an average token: an embedding of 0 would make a norm divide by zero.
    model.begin_of_image.data.copy_(model.language_model.mean_embedding())
    for name, tensor in no_text.items():
        model.image_decoder.get_parameter(name).data.copy_(tensor)
    _convert_parameters(model, dtype, without=[model.language_model.host, model.image_decoder.codec])
    freeze(model, frozen)
    model.to(device).eval()
    _copy_out_of_files(model)
    return model


def _visual_tokenizer_config(
    base: VisualTokenizerConfig, source: Source, image_size: int | tuple[int, int] | None
) -> VisualTokenizerConfig:
    encoder = vision_encoder_settings(source)
    side, patch = encoder["image_size"], encoder["patch_size"]
    shape = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size or (side, side))
    if len(shape) != 2 or any(length < patch or length % patch for length in shape):
        raise ValueError(
            f"image_size is {image_size}; expected a side or (height, width), multiples of the patch size {patch} of "
            f"{source.name}."
        )
    if encoder["num_hidden_layers"] % base.adapter_blocks:
        raise ValueError(
            f"{source.name} has {encoder['num_hidden_layers']} layers, which do not divide into {base.adapter_blocks} "
            "groups; give a configuration with other visual_tokenizer.adapter_blocks as like=."
        )
    size = None if shape == (side, side) else shape
    return replace(base, vision_encoder=encoder, image_size=size, **pixel_statistics(source))


def _language_model_config(
    base: LanguageModelConfig, transformer: dict[str, Any], tokens: ExtendedTokenizer
) -> LanguageModelConfig:
    return replace(base, transformer=transformer, new_tokens=tokens.num_new, new_tokens_from=tokens.first_new)


def _image_decoder_config(
    base: ImageDecoderConfig, source: Source, drawn_image_size: int | tuple[int, int] | None
) -> ImageDecoderConfig:
    unet, vae, schedule = diffusion_settings(source)
    shrink = 2 ** (len(vae["block_out_channels"]) - 1)
    size = unet["sample_size"] * shrink if drawn_image_size is None else drawn_image_size
    multiple = shrink * 2 ** (len(unet["block_out_channels"]) - 1)
    sides = (size,) if isinstance(size, int) else size
    if any(side < multiple or side % multiple for side in sides):
        raise ValueError(
            f"drawn_image_size is {size}; expected a multiple of {multiple}, so that every map of the VAE and the "
            f"U-Net of {source.name} has whole pixels."
        )
    if unet["cross_attention_dim"] % base.resampler_heads:
        raise ValueError(
            f"{source.name} reads context tokens of {unet['cross_attention_dim']} channels, which do not divide into "
            f"{base.resampler_heads} heads; give a configuration with other image_decoder.resampler_heads as like=."
        )
    return replace(base, unet=unet, vae=vae, scheduler=schedule, image_size=size)


@torch.no_grad()
def _convert_parameters(model: nn.Module, dtype: torch.dtype, *, without: Iterable[nn.Module]) -> None:
    """Parameters only: buffers (rotary frequencies, pixel statistics) keep the precision that they were made with."""
    left_out = {id(parameter) for module in without for parameter in module.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in left_out:
            parameter.data = parameter.data.to(dtype)


def _have_types(model: Network, dtype: torch.dtype, lm_dtype: torch.dtype, of_vae: torch.dtype) -> None:
    """Give parameters without values the types that those with values have."""
    for name, parameter in model.named_parameters():
        is_in = {part: name.startswith(f"{MODULE_NAMES[part]}.") for part in ("language_model", "vae")}
        own = lm_dtype if is_in["language_model"] else of_vae if is_in["vae"] else dtype
        parameter.data = torch.empty(parameter.shape, dtype=own)


@torch.no_grad()
def _copy_out_of_files(model: nn.Module) -> None:
    """Weights on the CPU begin where PyTorch would have put them.

    Libraries map files into memory, where a weight begins at any address. Matrix products (MKL) add in an order that
    depends on it, so the same weights read from other files, or saved and read again, would not give the same bits.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.is_floating_point() and parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()
