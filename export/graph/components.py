"""What is exported: the model cut where a runtime has to decide something, each part with plain tensors in and out.

One declaration per component names its inputs, outputs and dynamic axes; tracing inputs, the checks and the manifest
come from it. The cuts and most names are those of a split deployment in which values are projected once per image:

    image_tokenizer     pixel_values -> visual_tokens, ms_features
    mmfs_values_llm     ms_features -> mmfs_value_{j}          once per image, read by every token afterwards
    mmfs_values_unet    ms_features -> unet_mmfs_value_{j}     once per image, read by every denoising step
    llm                 inputs_embeds, ... -> logits, hidden_states, new_key_{i}, new_value_{i}
    context_resampler   context_hidden, context_length -> encoder_hidden_states; of SDXL text_embeds, time_ids too
    unet_mmfs           sample, timestep, encoder_hidden_states, ... -> model_output
    vae_decoder         latents -> image

Choices that a runtime has to know:

* Images are one bank for the whole call, and who sees what is `visible` = (first, one past last) into the bank, per
  token in `llm` and per drawn image in `unet_mmfs`. A sequence sees a contiguous range of images, so two integers say
  what a slot list and image positions would; both halves of classifier-free guidance point to the same images.
  A bank without images is allowed, so no switch turns MMFS off.
* The key-value cache is read-only: `past_key_{i}` holds `write_indices[b]` valid rows of any capacity (0 included),
  later rows are ignored but must be finite; the new rows come out and the runtime stores them behind the valid ones.
  The mask is built in the graph from `write_indices` and is explicit; prefill, chunks and single tokens use one file.
  `export/graph/kv_cache.py` makes graphs of it that write their cache in place.
* `model_output` is what the diffusion schedule calls the prediction: noise, or velocity.

Letters: B sequences, S new tokens, K rows of the cache, N images of the bank, C language-model width, X pyramid pixels,
F feature width, H heads, D channels of a head, b images being drawn.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.graph.cached_attention import AttentionAsOneNode, PastRows
from models import MMInterleaved
from models.image_decoders.condition import Condition
from models.language_model import LanguageModel
from models.synchronized_unet import SynchronizedUNet

Host = LanguageModel | SynchronizedUNet
"""A network that MMFS is attached to."""

FLOAT, INT = torch.float32, torch.int64

TRACE_SIZES = {"batch": 2, "tokens": 3, "past": 5, "images": 4, "context": 7}
"""Axis lengths while tracing: different from each other and from 0 and 1, so that no accident becomes a constant."""


@dataclass(frozen=True)
class Port:
    """One input or output: an integer is a fixed length, a name a dynamic axis."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Component:
    """A model's part on its way to an engine."""

    name: str
    module: nn.Module
    """Takes the inputs in order, returns the outputs in order (one tensor, or a tuple)."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    num_synchronizers: int = 0
    """How many `mmfs::MMFS` nodes the graph has to have."""

    num_cached_attentions: int = 0
    """How many nodes of attention over a cache the neutral graph has to have."""

    def dynamic_axes(self) -> set[str]:
        """Names of the axes that may change from call to call."""
        return {axis for port in self.inputs.values() for axis in port.shape if isinstance(axis, str)}

    def trace_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the declared types and of `TRACE_SIZES`; zero is a valid index, length and range everywhere."""
        generator = torch.Generator().manual_seed(0)

        def example(port: Port) -> Tensor:
            shape = [TRACE_SIZES[axis] if isinstance(axis, str) else axis for axis in port.shape]
            if port.dtype.is_floating_point:
                return torch.rand(shape, generator=generator, dtype=port.dtype)
            return torch.zeros(shape, dtype=port.dtype)

        return tuple(example(port) for port in self.inputs.values())

    @torch.no_grad()
    def run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What PyTorch computes."""
        outputs = self.module(*(inputs[name] for name in self.inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip(self.outputs, outputs, strict=True))


def components_of(model: MMInterleaved) -> dict[str, Component]:
    """Every component that this model has, in the order in which a document passes through them."""
    parts = [
        _image_tokenizer(model),
        *_mmfs_values(model),
        _llm(model),
        _context_resampler(model),
        _unet_mmfs(model),
        _vae_decoder(model),
    ]
    return {part.name: part for part in parts}


class ImageTokenizer(nn.Module):
    """Pixels to visual tokens for the language model and multi-scale features for MMFS."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.visual_tokenizer = model.visual_tokenizer

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, h, w] in [0, 1] -> [N, n, C], [N, X, F]."""
        return self.visual_tokenizer(pixel_values)


class MMFSValues(nn.Module):
    """What the synchronizers of one host network sample."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host

    def forward(self, ms_features: Tensor) -> tuple[Tensor, ...]:
        """[N, X, F] -> per synchronizer [N, X', H, D]."""
        return tuple(self.host.project_values(ms_features))


class LanguageModelWithPast(nn.Module):
    """One call of the language model: S new tokens behind `write_indices` cached ones."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.language_model = model.language_model
        self.num_past = 2 * len(self.language_model.decoder.layers)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        write_indices: Tensor,
        last_token_ids: Tensor,
        visible: Tensor,
        *past_and_values: Tensor,
    ) -> tuple[Tensor, ...]:
        """The new tokens' states and cache rows, and the logits after one of them.

        Args:
            inputs_embeds: [B, S, C] of text and visual tokens.
            position_ids: [B, S] int64.
            write_indices: [B] int64, how many tokens of each sequence are cached.
            last_token_ids: [B, 1] int64, the new token whose logits are wanted.
            visible: [B, S, 2] int64, range of images of the bank that a token sees.
            past_and_values: past_key_0, past_value_0, ... [B, H, K, D], then mmfs_value_0, ... [N, X', H, D].

        Returns:
            logits [B, 1, vocabulary], hidden_states [B, S, C], new_key_0, new_value_0, ... [B, H, S, D].
        """
        past, values = past_and_values[: self.num_past], past_and_values[self.num_past :]
        cache = PastRows(past)
        tracing = torch.compiler.is_exporting()
        with AttentionAsOneNode(cache, write_indices) if tracing else nullcontext():
            hidden = self.language_model(
                inputs_embeds,
                position_ids=position_ids,
                mask=cached_causal_mask(write_indices, capacity=past[0].shape[2], num_new=inputs_embeds.shape[1]),
                values=values,
                visible=visible,
                cache=cache,
            )
        rows = last_token_ids.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return self.language_model.logits(hidden.gather(1, rows)), hidden, *cache.new


def cached_causal_mask(write_indices: Tensor, *, capacity: int, num_new: int) -> Tensor:
    """Who attends to whom, [B, 1, S, K + S] bool: the valid rows of the cache, earlier new tokens, and oneself."""
    device = write_indices.device
    past = torch.arange(capacity, device=device) < write_indices[:, None, None, None]  # [B, 1, 1, K]
    new = torch.arange(num_new, device=device)
    causal = new <= new.unsqueeze(1)  # [S, S]
    batch = write_indices.shape[0]
    return torch.cat([past.expand(batch, 1, num_new, capacity), causal.expand(batch, 1, num_new, num_new)], dim=-1)


class LanguageModelWithoutMMFS(LanguageModelWithPast):
    """The same for a model that has no synchronizers: nothing to see, so no range and no values."""

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, write_indices: Tensor, last_token_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """As above, without `visible`."""
        return super().forward(inputs_embeds, position_ids, write_indices, last_token_ids, position_ids, *past)


class ContextResampler(nn.Module):
    """Language-model states to the U-Net's conditions for both halves of classifier-free guidance."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.image_decoder = model.image_decoder

    def forward(self, context_hidden: Tensor, context_length: Tensor) -> tuple[Tensor, ...]:
        """The states in reading order; they are reversed here, because the image decoder counts from the nearest.

        Args:
            context_hidden: [b, T, C]; row i ends with its `<BoI>` at `context_length[i] - 1`.
            context_length: [b] int64.

        Returns:
            The tensors of a condition, as `Condition.named` orders them: encoder_hidden_states [2b, n,
            cross_attention_dim], of SDXL text_embeds [2b, P] and time_ids [2b, 6] too. In each the negative condition
            comes b times, then the conditional ones.
        """
        back = torch.arange(context_hidden.shape[1], device=context_hidden.device)
        exists = back < context_length.unsqueeze(1)
        columns = (context_length.unsqueeze(1) - 1 - back).clamp(min=0).unsqueeze(-1)
        nearest_first = context_hidden.gather(1, columns.expand(-1, -1, context_hidden.shape[2]))
        conditional = self.image_decoder.condition(nearest_first, exists)
        return tuple(Condition.cat([self.image_decoder.negative(conditional), conditional]).named().values())


class UNet(nn.Module):
    """One denoising step."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.unet = model.image_decoder.unet
        self.added = [name for name in model.image_decoder.condition_shapes if name != "encoder_hidden_states"]

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *others: Tensor) -> Tensor:
        """The prediction for each noisy image, [b, c, h, w].

        Args:
            sample: [b, c, h, w] noisy latents.
            timestep: [b] float32, diffusion time.
            encoder_hidden_states: [b, n, cross_attention_dim] context tokens.
            others: what the U-Net takes beside the tokens, each with b rows; then, of a model with synchronizers,
                `visible` [b, 2] int64, range of images of the bank that a drawn image sees, and unet_mmfs_value_0, ...
                [N, X, H, D].
        """
        added = dict(zip(self.added, others, strict=False))
        visible, *values = others[len(added) :] or (timestep,)  # without synchronizers nothing reads it
        return self.unet(sample, timestep, encoder_hidden_states, added, values=values, visible=visible)


class VAEDecoder(nn.Module):
    """Latents to pixels: an AutoencoderKL's decoder, or the unfolding of the pixel codec."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.codec = model.image_decoder.codec

    def forward(self, latents: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, 3, h', w'] in [0, 1]."""
        return self.codec.decode(latents)


def _image_tokenizer(model: MMInterleaved) -> Component:
    height, width = model.config.image_size
    num_pixels = _num_pixels(model)
    return Component(
        "image_tokenizer",
        ImageTokenizer(model),
        inputs={"pixel_values": Port(FLOAT, ("images", 3, height, width))},
        outputs={
            "visual_tokens": Port(
                FLOAT, ("images", model.config.visual_tokenizer.num_visual_tokens, model.language_model.hidden_size)
            ),
            "ms_features": Port(FLOAT, ("images", num_pixels, model.visual_tokenizer.dim)),
        },
    )


def _mmfs_values(model: MMInterleaved) -> list[Component]:
    features = {"ms_features": Port(FLOAT, ("images", _num_pixels(model), model.visual_tokenizer.dim))}
    return [
        Component(name, MMFSValues(host), inputs=features, outputs=values)
        for name, host, values in (
            ("mmfs_values_llm", model.language_model, _llm_values(model)),
            ("mmfs_values_unet", model.image_decoder.unet, _unet_values(model)),
        )
        if values
    ]


def _llm(model: MMInterleaved) -> Component:
    language_model = model.language_model
    host, width = language_model.host.config, language_model.hidden_size
    head = getattr(host, "head_dim", None) or width // host.num_attention_heads
    rows = host.num_key_value_heads
    values = _llm_values(model)
    past, new = {}, {}
    for i in range(len(language_model.decoder.layers)):
        for part in ("key", "value"):
            past[f"past_{part}_{i}"] = Port(FLOAT, ("batch", rows, "past", head))
            new[f"new_{part}_{i}"] = Port(FLOAT, ("batch", rows, "tokens", head))
    return Component(
        "llm",
        LanguageModelWithPast(model) if values else LanguageModelWithoutMMFS(model),
        inputs={
            "inputs_embeds": Port(FLOAT, ("batch", "tokens", width)),
            "position_ids": Port(INT, ("batch", "tokens")),
            "write_indices": Port(INT, ("batch",)),
            "last_token_ids": Port(INT, ("batch", 1)),
            **({"visible": Port(INT, ("batch", "tokens", 2))} if values else {}),
            **past,
            **values,
        },
        outputs={
            "logits": Port(FLOAT, ("batch", 1, language_model.vocabulary_size)),
            "hidden_states": Port(FLOAT, ("batch", "tokens", width)),
            **new,
        },
        num_synchronizers=len(language_model.synchronizers),
        num_cached_attentions=len(language_model.decoder.layers),
    )


def _context_resampler(model: MMInterleaved) -> Component:
    return Component(
        "context_resampler",
        ContextResampler(model),
        inputs={
            "context_hidden": Port(FLOAT, ("batch", "context", model.language_model.hidden_size)),
            "context_length": Port(INT, ("batch",)),
        },
        outputs=_condition(model, "2*batch"),
    )


def _unet_mmfs(model: MMInterleaved) -> Component:
    decoder = model.image_decoder
    values = _unet_values(model)
    latents = ("batch", *decoder.latent_shape)
    return Component(
        "unet_mmfs",
        UNet(model),
        inputs={
            "sample": Port(FLOAT, latents),
            "timestep": Port(FLOAT, ("batch",)),
            **_condition(model, "batch"),
            **({"visible": Port(INT, ("batch", 2))} if values else {}),
            **values,
        },
        outputs={"model_output": Port(FLOAT, latents)},
        num_synchronizers=len(decoder.unet.synchronizers),
    )


def _condition(model: MMInterleaved, axis: str) -> dict[str, Port]:
    return {name: Port(FLOAT, (axis, *shape)) for name, shape in model.image_decoder.condition_shapes.items()}


def _vae_decoder(model: MMInterleaved) -> Component:
    decoder = model.image_decoder
    height, width = decoder.config.drawn_image_size
    return Component(
        "vae_decoder",
        VAEDecoder(model),
        inputs={"latents": Port(FLOAT, ("batch", *decoder.latent_shape))},
        outputs={"image": Port(FLOAT, ("batch", 3, height, width))},
    )


def _llm_values(model: MMInterleaved) -> dict[str, Port]:
    return _values("mmfs_value", model.language_model, model)


def _unet_values(model: MMInterleaved) -> dict[str, Port]:
    return _values("unet_mmfs_value", model.image_decoder.unet, model)


def _values(name: str, host: Host, model: MMInterleaved) -> dict[str, Port]:
    """The sizes that the host's synchronizers give a bank without images."""
    no_image = torch.zeros(0, _num_pixels(model), model.visual_tokenizer.dim)
    with torch.no_grad():
        values = host.project_values(no_image)
    return {f"{name}_{j}": Port(FLOAT, ("images", *value.shape[1:])) for j, value in enumerate(values)}


def _num_pixels(model: MMInterleaved) -> int:
    return sum(h * w for h, w in model.visual_tokenizer.spatial_shapes)
