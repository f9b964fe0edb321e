"""`python -m trainer.pretrain RECIPE --estimate 8x80`: what a run would need, before it starts and without its weights.

Parameters are counted and activations added up on tensors without data; the rest is arithmetic on parameter counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from models import MMInterleaved
from models.batch import IGNORED
from models.frozen import PLACES
from models.recompute import RecomputedPart
from trainer.config import TrainConfig, UsageError
from trainer.data.stream import Stream
from trainer.step_cost import BatchShape, StepCost, measure, shell

TEXT_TOKENS_AN_IMAGE = 75
"""Assumed of a corpus: with the paper's 64 visual tokens, about 15 images in 2,048 tokens, as its mixture has."""

DRAWN_SHARE = 0.59
"""Assumed of a corpus: the share of images that do not open their document (of the paper's mixture)."""

ACCELERATORS = {"A100": (312e12, 0.40), "H100": (989e12, 0.35)}
"""By name: dense bfloat16 operations per second, and the share of them that a run is assumed to reach."""

GB = 1e9

Rows = dict[str, tuple[float, ...]]
"""Of a table: a name and its numbers."""


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


@dataclass(frozen=True)
class Parameters:
    """Counts, by part."""

    trainable: dict[str, int]
    frozen: dict[str, int]
    frozen_bytes: int

    @property
    def num_trainable(self) -> int:
        """Of all parts."""
        return sum(self.trainable.values())


def estimate(config: TrainConfig, machine: Machine) -> str:
    """The report: parameters, memory of one GPU, operations and time.

    Raises:
        UsageError: the settings cannot be estimated.
    """
    rows = (config.data if config.corpus is None else config.corpus).num_rows
    micro_rows = config.micro_batch_rows or -(-rows // machine.num_gpus)
    shape = batch_shape(config, micro_rows)
    parameters = count_parameters(shell(config), config)
    plain = measure(config, shape, (), backward=True)
    recomputed = measure(config, shape, get_args(RecomputedPart), backward=False)
    memory = memory_bytes(config, machine, parameters, plain, recomputed)
    flops = step_flops(config, plain, recomputed) * rows / micro_rows
    total = sum(memory.values())
    unit, unit_bytes = ("GB", GB) if total >= GB else ("MB", 1e6)
    kept: Rows = {name: (size, recomputed.kept_bytes[name]) for name, size in plain.kept_bytes.items()}
    return "\n".join(
        [
            f"{config.recipe}: a step has {rows} rows, {micro_rows} at a time on each of {machine.num_gpus} GPUs",
            _batch_line(config, shape),
            "",
            _table("million parameters", ("trainable", "frozen"), _parameter_rows(parameters)),
            "",
            _table(f"{unit} on each GPU", ("as set",), _in(unit_bytes, {n: (size,) for n, size in memory.items()})),
            f"{'together':28}{total / unit_bytes:>12.2f}  {_verdict(total, machine)}",
            "",
            _table(f"{unit} kept for the backward", ("plain", "recomputed"), _in(unit_bytes, kept)),
            "",
            f"{flops / 1e12:.4g} TFLOP a step (matrix products, convolutions, attention)",
            *_times(config, machine, flops),
            "",
            "Counted on the model without data: parameters, operations, what autograd keeps. A formula: weights,",
            "gradients, optimizer, average. Not in it, to be measured: temporaries of the backward, the allocator's",
            "fragments, communication, evaluation, and whether the utilisation is reached.",
        ]
    )


def batch_shape(config: TrainConfig, num_rows: int) -> BatchShape:
    """A micro-batch of the emoji world as it is made, or one of a corpus as it is assumed to be."""
    if config.corpus is None:
        batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, range(num_rows))
        row, column = batch.image_positions[batch.drawn].unbind(-1)
        return BatchShape(
            num_rows=num_rows,
            row_tokens=config.data.row_tokens,
            num_images=len(batch.pixel_values),
            num_drawn=len(batch.drawn),
            num_targets=int((batch.targets != IGNORED).sum()),
            context_tokens=int(batch.position_ids[row, column - 1].max()) + 1 if len(row) else 0,
        )
    row_tokens, visual = config.corpus.row_tokens, config.model.vision.num_visual_tokens
    num_images = max(1, row_tokens // (1 + visual + TEXT_TOKENS_AN_IMAGE)) * num_rows
    return BatchShape(
        num_rows=num_rows,
        row_tokens=row_tokens,
        num_images=num_images,
        num_drawn=round(DRAWN_SHARE * num_images),
        num_targets=num_rows * row_tokens - visual * num_images,
        context_tokens=row_tokens // 2,
    )


def count_parameters(model: MMInterleaved, config: TrainConfig) -> Parameters:
    """By part, and the bytes of the frozen ones as a run keeps them."""
    trainable: dict[str, int] = {}
    frozen: dict[str, int] = {}
    frozen_bytes = 0
    half = config.precision == "bfloat16" and not config.encoder_pretraining.num_steps
    for name, parameter in model.named_parameters():
        counts, other = (trainable, frozen) if parameter.requires_grad else (frozen, trainable)
        part = part_of(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
        other.setdefault(part, 0)
        if not parameter.requires_grad:
            frozen_bytes += parameter.numel() * (2 if half and parameter.ndim > 1 else 4)
    return Parameters(trainable, frozen, frozen_bytes)


def part_of(name: str) -> str:
    """What a parameter belongs to, in the words of the report."""
    words = {
        f"{PLACES['vision']}.": "CLIP",
        "visual_tokenizer.adapter.": "ViT-Adapter",
        "visual_tokenizer.": "visual resampler",
        f"{PLACES['language_model']}.": "language model",
        "language_model.synchronizers.": "MMFS in the language model",
        "image_decoder.unet.host.": "U-Net",
        "image_decoder.unet.synchronizers.": "MMFS in the U-Net",
        f"{PLACES['vae']}.": "VAE",
        "image_decoder.": "context resampler",
    }
    return next((word for prefix, word in words.items() if name.startswith(prefix)), "new tokens")


def memory_bytes(
    config: TrainConfig, machine: Machine, parameters: Parameters, plain: StepCost, recomputed: StepCost
) -> dict[str, float]:
    """By kind, on one GPU, at the moment when most of it is there."""
    shards = config.shard_size or machine.num_gpus
    trainable = 4.0 * parameters.num_trainable
    several = machine.num_gpus > 1
    chosen = {RECOMPUTED_IN[part] for part in config.recompute}
    kept = {name: (recomputed if name in chosen else plain).kept_bytes[name] for name in plain.kept_bytes}
    return {
        "frozen weights": parameters.frozen_bytes,
        "trained weights, float32": trainable / shards,
        "the same, gathered": trainable if several else 0.0,
        "gradients": trainable + (trainable / shards if several else 0.0),
        "AdamW": 2 * trainable / shards,
        "average of the weights": trainable / shards if config.ema_decay else 0.0,
        "kept for the backward": sum(kept.values()),
    }


RECOMPUTED_IN: dict[RecomputedPart, str] = {
    "vision": "encoder",
    "language_model": "language_model",
    "unet": "image_decoder",
}
"""The part of a step that becomes smaller."""


def step_flops(config: TrainConfig, plain: StepCost, recomputed: StepCost) -> int:
    """Of one micro-batch, forward, backward, and the forward again of what is recomputed."""
    again = sum(recomputed.forward_flops[RECOMPUTED_IN[part]] for part in config.recompute)
    return plain.flops + again


def _batch_line(config: TrainConfig, shape: BatchShape) -> str:
    source = "made by the recipe" if config.corpus is None else "assumed of the corpus"
    return (
        f"rows at a time, {source}: {shape.num_images} images, {shape.num_drawn} of them drawn, "
        f"{shape.num_targets:,} supervised tokens"
    )


def _parameter_rows(parameters: Parameters) -> Rows:
    rows = {part: (n / 1e6, parameters.frozen[part] / 1e6) for part, n in parameters.trainable.items()}
    together = (parameters.num_trainable / 1e6, sum(parameters.frozen.values()) / 1e6)
    return {**rows, "together": together}


def _in(unit_bytes: float, rows: Rows) -> Rows:
    return {name: tuple(size / unit_bytes for size in sizes) for name, sizes in rows.items()}


def _table(title: str, columns: tuple[str, ...], rows: Rows) -> str:
    lines = [f"{title:28}" + "".join(f"{column:>12}" for column in columns)]
    lines += [f"{name:28}" + "".join(f"{number:12.2f}" for number in numbers) for name, numbers in rows.items()]
    return "\n".join(lines)


def _verdict(total: float, machine: Machine) -> str:
    share = total / machine.gpu_bytes
    verdict = f"{share:.0%} of {machine.gpu_bytes / GB:g} GB"
    if share > 0.9:
        verdict += "; too little is left. Try --recompute, --images_at_once, --tokens_at_once, --micro_batch_rows."
    return verdict


def _times(config: TrainConfig, machine: Machine, flops: float) -> list[str]:
    lines = []
    for name, (peak, utilisation) in ACCELERATORS.items():
        seconds = flops / (machine.num_gpus * peak * utilisation)
        hours = seconds * config.num_steps / 3600
        duration = f"{hours:.2g} hours" if hours < 48 else f"{hours / 24:.3g} days"
        lines.append(
            f"{machine.num_gpus} {name} at {utilisation:.0%} of {peak / 1e12:.0f} TFLOP/s (bfloat16): "
            f"{seconds:.3g} s a step, {duration} for {config.num_steps:,} steps"
        )
    return lines
