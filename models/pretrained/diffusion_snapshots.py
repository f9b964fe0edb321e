"""A Stable Diffusion in the format of diffusers: its settings, its networks, and its condition "no text".

A U-Net's `addition_embed_type` says which kind it is: none for Stable Diffusion 1.x and 2.x, "text_time" for XL.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from models.component_configs import ImageDecoderConfig
from models.image_decoders.stable_diffusion_xl import NUM_TIME_IDS, pooled_width
from models.pretrained.snapshots import Source

EXPECTED = "a Stable Diffusion 1.x, 2.x or XL directory with unet/, vae/ and scheduler/"

SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
"""The fields of a scheduler's file that a U-Net was trained with; all others are how its authors sample."""

OTHER_CONDITIONS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim")
"""Arguments of U-Nets that take conditions that no image decoder here makes."""

OTHER_LATENTS = ("latents_mean", "latents_std", "shift_factor")
"""Arguments of VAEs whose latents are not only scaled."""


def diffusion_settings(source: Source) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Arguments of the U-Net, of the VAE, and of the noise schedule.

    Raises:
        FileNotFoundError: the snapshot is not there.
        ValueError: it is something else.
    """
    try:
        unet = source.json("unet/config.json", expected=EXPECTED)
    except FileNotFoundError:
        _refuse_transformer(source)
        raise
    vae = source.json("vae/config.json", expected=EXPECTED)
    schedule = source.json("scheduler/scheduler_config.json", expected=EXPECTED)
    for part, values, kind in (("unet", unet, "UNet2DConditionModel"), ("vae", vae, "AutoencoderKL")):
        if values.get("_class_name") != kind:
            raise ValueError(f"{source.name}/{part} holds {values.get('_class_name')!r}; expected {kind}: {EXPECTED}.")
    for part, values, names in (
        ("unet", unet, ("sample_size", "block_out_channels", "cross_attention_dim")),
        ("vae", vae, ("block_out_channels",)),
    ):
        if lacking := [name for name in names if values.get(name) is None]:
            raise ValueError(f"{source.name}/{part}/config.json does not say {lacking}. Expected {EXPECTED}.")
    _check_conditions(source, unet)
    if other := {name: vae[name] for name in OTHER_LATENTS if vae.get(name) is not None}:
        raise ValueError(
            f"{source.name}/vae has {other}: its latents are shifted or scaled by channel, which is not supported. "
            f"Expected {EXPECTED}, whose VAE has a scaling_factor alone."
        )
    if str(schedule.get("_class_name", "")).startswith(("EDM", "FlowMatch")):
        raise ValueError(
            f"{source.name}/scheduler holds {schedule['_class_name']!r}: noise that is not measured in steps of "
            f"training. Expected {EXPECTED}."
        )
    channels = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels[0] != channels[1]:
        raise ValueError(
            f"{source.name}/unet takes {channels[0]} channels and its VAE makes {channels[1]}; U-Nets for "
            "inpainting, depth or upscaling take more than the image. Expected one that draws from text alone."
        )
    # An old file may leave clip_sample out, and its default is for pixels: latents are not between -1 and 1.
    noise = {name: schedule[name] for name in SCHEDULE if name in schedule} | {"clip_sample": False}
    return _public(unet), _public(vae), noise


def _refuse_transformer(source: Source) -> None:
    """Raise ValueError for a snapshot that denoises with a transformer, as Stable Diffusion 3 and FLUX do."""
    transformer: dict[str, Any] = {}
    with suppress(OSError):  # of a snapshot that is not there at all
        transformer = source.optional_json("transformer/config.json")
    if transformer:
        raise ValueError(
            f"{source.name} denoises with a transformer ({transformer.get('_class_name')}), as Stable Diffusion 3 and "
            f"FLUX do; MMFS is attached to the maps of a U-Net. Expected {EXPECTED}."
        )


def _check_conditions(source: Source, unet: dict[str, Any]) -> None:
    """Raise ValueError for a U-Net that takes conditions beside text that no image decoder makes."""
    for name in OTHER_CONDITIONS:
        if unet.get(name) is not None:
            raise _other_condition(source, name, unet[name])
    added = unet.get("addition_embed_type")
    if added is None:
        return
    if added != "text_time":
        raise _other_condition(source, "addition_embed_type", added)
    if _is_refiner(source, unet):
        raise ValueError(
            f"{source.name} is the refiner of Stable Diffusion XL: its U-Net takes an aesthetic score and goes on with "
            "what another U-Net has begun to draw. Expected Stable Diffusion XL base or one made of it."
        )
    pooled_width(unet)


def _other_condition(source: Source, name: str, value: Any) -> ValueError:
    return ValueError(
        f"{source.name}/unet has {name} {value!r}: it wants conditions beside text, which MM-Interleaved does not "
        f"make. Expected {EXPECTED}."
    )


def _is_refiner(source: Source, unet: dict[str, Any]) -> bool:
    """Its index says so; without one, its widths do: five numbers instead of six besides the pooled embedding, and
    tokens of one text encoder, as wide as that embedding."""
    if source.optional_json("model_index.json").get("requires_aesthetics_score"):
        return True
    all_together, each = unet.get("projection_class_embeddings_input_dim"), unet.get("addition_time_embed_dim")
    numbers = NUM_TIME_IDS - 1
    return bool(all_together and each and all_together - numbers * each == unet["cross_attention_dim"])


def load_unet(source: Source, dtype: torch.dtype) -> UNet2DConditionModel:
    """The U-Net of a Stable Diffusion."""
    return source.load(UNet2DConditionModel.from_pretrained, subfolder="unet", torch_dtype=dtype)


def load_vae(source: Source, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE of a Stable Diffusion."""
    return source.load(AutoencoderKL.from_pretrained, subfolder="vae", torch_dtype=dtype)


@torch.no_grad()
def empty_prompt(source: Source, config: ImageDecoderConfig) -> dict[str, Tensor]:
    """What a Stable Diffusion was trained with as "no text", float32, by the parameter of its image decoder.

    1.x and 2.x: the last states of the text encoder for the prompt "". XL: zeros, if `model_index.json` says
    `force_zeros_for_empty_prompt` as that of SDXL base does, which was trained so; otherwise the penultimate states of
    both text encoders for "", side by side, and the pooled output of the second.

    Args:
        source: the snapshot.
        config: of an image decoder with this snapshot's U-Net.

    Returns:
        `negative_context` [num_context_tokens, cross_attention_dim], and for XL `negative_pooled` [P].

    Raises:
        FileNotFoundError: the snapshot lacks a text encoder or a tokenizer.
        ValueError: they make another number of tokens, or another width.
    """
    num_tokens, width = config.num_context_tokens, config.unet["cross_attention_dim"]
    if config.unet.get("addition_embed_type") is None:
        encoder = _load_text_encoder(source, CLIPTextModel, "text_encoder")
        states = encoder(_ids_of_nothing(source, encoder, "tokenizer")).last_hidden_state[0]
        _check_shape(source, states, num_tokens, width)
        return {"negative_context": states}
    pooled_dim = pooled_width(config.unet)
    index = source.json("model_index.json", expected="one with model_index.json, which says what no text is")
    if index.get("force_zeros_for_empty_prompt", True):  # the default of diffusers
        return {"negative_context": torch.zeros(num_tokens, width), "negative_pooled": torch.zeros(pooled_dim)}
    first = _load_text_encoder(source, CLIPTextModel, "text_encoder")
    second = _load_text_encoder(source, CLIPTextModelWithProjection, "text_encoder_2")
    small = first(_ids_of_nothing(source, first, "tokenizer"), output_hidden_states=True)
    large = second(_ids_of_nothing(source, second, "tokenizer_2"), output_hidden_states=True)
    both = small.hidden_states[-2][0], large.hidden_states[-2][0]
    if len(both[0]) != len(both[1]):
        raise ValueError(
            f"The text encoders of {source.name} make {len(both[0])} and {len(both[1])} tokens; expected equally many. "
            "The snapshot is mixed of several models; get it again."
        )
    states = torch.cat(both, dim=-1)
    _check_shape(source, states, num_tokens, width)
    pooled = large.text_embeds[0]
    if pooled.shape != (pooled_dim,):
        raise ValueError(
            f"The second text encoder of {source.name} makes a pooled embedding of {len(pooled)} channels; its U-Net "
            f"takes {pooled_dim}. The snapshot is mixed of several models; get it again."
        )
    return {"negative_context": states, "negative_pooled": pooled}


def _load_text_encoder(source: Source, kind: Any, folder: str) -> Any:
    source.json(f"{folder}/config.json", expected=f"one with {folder}/ for the empty prompt")
    return source.load(kind.from_pretrained, subfolder=folder, dtype=torch.float32)


def _ids_of_nothing(source: Source, encoder: Any, folder: str) -> Tensor:
    """Token ids of "", padded to the encoder's length, [1, length]."""
    source.json(f"{folder}/tokenizer_config.json", expected=f"one with {folder}/ for the empty prompt")
    with source.explained():
        tokenizer = CLIPTokenizer.from_pretrained(
            source.name, subfolder=folder, local_files_only=source.local_files_only
        )
    length = encoder.config.max_position_embeddings
    ids: Tensor = tokenizer("", padding="max_length", max_length=length, return_tensors="pt").input_ids
    return ids


def _check_shape(source: Source, states: Tensor, num_tokens: int, width: int) -> None:
    if states.shape != (num_tokens, width):
        raise ValueError(
            f"The text encoder of {source.name} makes {states.shape[0]} tokens of {states.shape[1]} channels; the "
            f"image decoder reads {num_tokens} of {width}. Give like= with other "
            "image_decoder.num_context_tokens, or negative_context='new'."
        )


def _public(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith("_")}
