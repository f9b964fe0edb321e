"""What a run keeps on one GPU, by kind: arithmetic on counts of parameters and on what a step keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from models import MMInterleaved
from models.component_names import CheckpointedComponent
from models.frozen import MODULE_NAMES
from trainer.config import TrainConfig
from trainer.cost.step_cost import StepCost
from trainer.errors import UsageError

GB = 1e9


@dataclass(frozen=True)
class Machine:
    """What the run is to fit on."""

    num_gpus: int
    gpu_bytes: float

    @classmethod
    def parse(cls, text: str) -> Machine:
        """ "8x80": 8 GPUs of 80 GB. Raises UsageError for anything else."""
        match = re.fullmatch(r"([1-9]\d*)x(\d+(?:\.\d+)?)", text)
        if match is None or not float(match[2]):
            raise UsageError(f"estimate is '{text}'; expected GPUs and the GB of each, as in 8x80.")
        return cls(int(match[1]), float(match[2]) * GB)

    def shard_size(self, config: TrainConfig) -> int:
        """So many of the GPUs share a copy of what learns."""
        return config.parallel.shard_size or self.num_gpus


@dataclass(frozen=True)
class LayerBytes:
    """What a layer's parameters take."""

    frozen: int
    trained: int


@dataclass(frozen=True)
class Parameters:
    """Counts, by part."""

    trainable: dict[str, int]
    frozen: dict[str, int]
    frozen_bytes: int
    layers: tuple[LayerBytes, ...] = ()
    """Of the language model, which `shard_layers` shares one by one."""

    largest_bytes: int = 0
    """Of any tensor, in float32."""

    @property
    def num_trainable(self) -> int:
        """Of all parts."""
        return sum(self.trainable.values())


def count_parameters(model: MMInterleaved) -> Parameters:
    """Of a run's `shell`."""
    trainable: dict[str, int] = {}
    frozen: dict[str, int] = {}
    frozen_bytes = 0
    for name, parameter in model.named_parameters():
        counts, other = (trainable, frozen) if parameter.requires_grad else (frozen, trainable)
        part = part_of(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
        other.setdefault(part, 0)
        if not parameter.requires_grad:
            frozen_bytes += parameter.nbytes
    layers = tuple(_bytes_of(layer) for layer in model.language_model.decoder.layers)
    largest_bytes = 4 * max(parameter.numel() for parameter in model.parameters())
    return Parameters(trainable, frozen, frozen_bytes, layers, largest_bytes)


def _bytes_of(layer: nn.Module) -> LayerBytes:
    trained = sum(p.nbytes for p in layer.parameters() if p.requires_grad)
    return LayerBytes(frozen=sum(p.nbytes for p in layer.parameters()) - trained, trained=trained)


def part_of(name: str) -> str:
    """What a parameter belongs to, in the words of the report."""
    words = {
        f"{MODULE_NAMES['vision_encoder']}.": "vision encoder",
        "visual_tokenizer.adapter.": "ViT-Adapter",
        "visual_tokenizer.": "visual resampler",
        f"{MODULE_NAMES['language_model']}.": "language model",
        "language_model.synchronizers.": "MMFS in the language model",
        "image_decoder.unet.host.": "U-Net",
        "image_decoder.unet.synchronizers.": "MMFS in the U-Net",
        f"{MODULE_NAMES['vae']}.": "VAE",
        "image_decoder.": "context resampler",
    }
    return next((word for prefix, word in words.items() if name.startswith(prefix)), "new tokens")


def memory_bytes(
    config: TrainConfig,
    machine: Machine,
    parameters: Parameters,
    plain: StepCost,
    recomputed: StepCost,
    *,
    is_alone: bool,
) -> dict[str, float]:
    """By kind, on one GPU, at the moment when most of it is there.

    That moment is the end of the last images' forward, the begin of the backward of the rest, or its end. How many of
    the gradients are there by then depends on what had its backward before: nothing, the images before these, or,
    unless the micro-batch `is_alone` in its step, another one. Of layers that are shared one by one, there are the
    gradients of two, one of which is being sent; those before are shards.
    """
    shards = machine.shard_size(config)
    trainable = 4.0 * parameters.num_trainable
    of_drawing = 4.0 * sum(parameters.trainable.get(part, 0) for part in DRAWING)
    several = machine.num_gpus > 1
    layers = parameters.layers if several and config.parallel.shard_layers else ()
    frozen_apart, apart = sum(layer.frozen for layer in layers), float(sum(layer.trained for layer in layers))
    together = trainable - apart  # gathered as one
    in_shards = apart / shards * (1 if shards == machine.num_gpus else 2)  # copies are added up in a buffer more
    learned = together + in_shards  # gradients of micro-batches before
    sending = 2.0 * max((layer.trained for layer in layers), default=0)
    chosen = {RECOMPUTED_IN[part] for part in config.memory.activation_checkpointing}
    kept = {name: (recomputed if name in chosen else plain).kept_bytes[name] for name in plain.kept_bytes}
    everything = float(sum(kept.values()))
    before_images = of_drawing if config.memory.image_chunk else 0.0
    moments = [
        (before_images if is_alone else learned, everything),
        ((of_drawing if is_alone else learned) + sending, everything - kept.get("image_decoder", 0)),
        # FSDP2 copies the gradients together before it sends them, and receives its share.
        (learned + together + together / shards if several else trainable, 0.0),
    ]
    if layers:  # the first one had its backward, the encoder has not
        moments.append((learned + sending, kept.get("encoder", 0.0)))
    gradients, backward = max(moments, key=sum)
    return {
        "frozen weights": parameters.frozen_bytes - frozen_apart + frozen_apart / shards,
        "trained weights, float32": trainable / shards,
        "gathered for a step": together if several else 0.0,
        "gathered layer by layer": LAYERS_AT_ONCE
        * max((layer.frozen + gather_share(config) * layer.trained for layer in layers), default=0),
        "AdamW": 2 * trainable / shards,
        "average of the weights": trainable / shards if config.ema_decay else 0.0,
        "gradients": gradients,
        "kept for the backward": backward,
    }


def gather_share(config: TrainConfig) -> float:
    """What a trained weight of a layer takes as it is gathered, as a share of its 4 bytes."""
    return 0.5 if config.parallel.gather_dtype == "bfloat16" else 1.0


def sample_bytes(config: TrainConfig, machine: Machine, parameters: Parameters) -> float:
    """Of one GPU while samples are made of layers that are shared: all weights whole, beside shards of them, of AdamW's
    state and, where there is an average, of it and of the weights that it stands in for."""
    trainable = 4.0 * parameters.num_trainable
    shards = sum(layer.frozen for layer in parameters.layers) + (5 if config.ema_decay else 3) * trainable
    return parameters.frozen_bytes + trainable + shards / machine.shard_size(config)


LAYERS_AT_ONCE = 3.0
"""The layer that computes, its copy as it was received, and the next one on its way."""

DRAWING = ("U-Net", "MMFS in the U-Net", "context resampler", "VAE")
"""The parts whose gradients come before the others'."""

RECOMPUTED_IN: dict[CheckpointedComponent, str] = {
    "vision_encoder": "encoder",
    "language_model": "language_model",
    "unet": "image_decoder",
}
"""The part of a step that becomes smaller."""
