"""`python -m trainer.pretrain RECIPE --estimate 8x80`: what a run would need, before it starts and without its weights.

Parameters are counted and activations added up on tensors without data; the rest is arithmetic on parameter counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from models.activation_checkpointing import enable_activation_checkpointing
from models.batch import IGNORED
from models.component_names import CheckpointedComponent
from models.sequence import documents
from trainer.config import TrainConfig
from trainer.cost.communication import LINKS, NODE_GPUS, communication, seconds
from trainer.cost.gpu_memory import (
    GB,
    RECOMPUTED_IN,
    Machine,
    Parameters,
    count_parameters,
    memory_bytes,
    sample_bytes,
)
from trainer.cost.gpu_speed import A100_TFLOPS, H100_TFLOPS
from trainer.cost.host_memory import host_bytes
from trainer.cost.step_cost import BatchShape, StepCost, measure, shell
from trainer.data.stream import Stream

TEXT_TOKENS_AN_IMAGE = 75
"""Assumed of a corpus: with the paper's 64 visual tokens, about 15 images in 2,048 tokens, as its mixture has."""

DRAWN_SHARE = 0.59
"""Assumed of a corpus: the share of images that do not open their document (of the paper's mixture)."""

DOCUMENTS_A_ROW = 2
"""Assumed of a corpus, for the text that an image is drawn from and for attention by document: more make both less."""

ACCELERATORS = {
    "bfloat16": {"A100": (A100_TFLOPS * 1e12, 0.40), "H100": (H100_TFLOPS * 1e12, 0.35)},
    "float32": {"A100": (19.5e12, 0.70), "H100": (67e12, 0.70)},
}
"""By precision and name: dense operations per second (NVIDIA's data sheets, SXM), and the share of them that a run is
assumed to reach."""

Rows = dict[str, tuple[float, ...]]
"""Of a table: a name and its numbers."""


@dataclass(frozen=True)
class Figures:
    """What is known of a run before it starts."""

    num_rows: int
    """Of a step."""

    shape: BatchShape
    """Of a micro-batch."""

    parameters: Parameters
    plain: StepCost
    """Of a micro-batch, if all layers kept what they need for the backward."""

    recomputed: StepCost
    """The same, if all layers kept their inputs alone."""

    memory: dict[str, float]
    """`memory_bytes`, as the run is set."""

    flops: float
    """Of a step, with what is computed again."""


def figures(config: TrainConfig, machine: Machine) -> Figures:
    """Count a run on tensors without data.

    Raises:
        UsageError: the settings cannot be estimated.
    """
    num_rows = (config.corpus or config.data).num_rows
    each = -(-num_rows // machine.num_gpus)
    shape = batch_shape(config, min(config.memory.micro_batch_rows or each, each))
    model = shell(config)
    parameters = count_parameters(model)
    plain = measure(model, config, shape)
    enable_activation_checkpointing(model, get_args(CheckpointedComponent))
    recomputed = measure(model, config, shape)
    is_alone = shape.num_rows == each
    return Figures(
        num_rows=num_rows,
        shape=shape,
        parameters=parameters,
        plain=plain,
        recomputed=recomputed,
        memory=memory_bytes(config, machine, parameters, plain, recomputed, is_alone=is_alone),
        flops=step_flops(config, plain, recomputed) * num_rows / shape.num_rows,
    )


def estimate(config: TrainConfig, machine: Machine) -> str:
    """The report: parameters, memory of one GPU, operations and time.

    Raises:
        UsageError: the settings cannot be estimated.
    """
    return described(config, machine, figures(config, machine))


def described(config: TrainConfig, machine: Machine, known: Figures) -> str:
    """Figures as a page."""
    total = sum(known.memory.values())
    unit, unit_bytes = ("GB", GB) if total >= GB else ("MB", 1e6)
    memory: Rows = {name: (size,) for name, size in known.memory.items() if size}
    kept: Rows = {name: (size, known.recomputed.kept_bytes[name]) for name, size in known.plain.kept_bytes.items()}
    return "\n".join(
        [
            f"{config.recipe}: a step has {known.num_rows} rows, {known.shape.num_rows} at a time on each of "
            f"{machine.num_gpus} GPUs",
            _batch_line(config, known.shape),
            "",
            _table("million parameters", ("trainable", "frozen"), _parameter_rows(known.parameters)),
            "",
            _table(f"{unit} on each GPU", ("as set",), _in(unit_bytes, memory)),
            f"{'together':28}{total / unit_bytes:>12.2f}  {_verdict(total, machine)}",
            "",
            _table(f"{unit} kept for the backward", ("plain", "recomputed"), _in(unit_bytes, kept)),
            "",
            _table(
                f"{unit} of the machine's memory",
                ("first", "each other"),
                _in(unit_bytes, host_bytes(config, machine, known.parameters)),
            ),
            "",
            f"{known.flops / 1e12:.4g} TFLOP a step (matrix products, convolutions, attention)",
            *_times(config, machine, known.flops),
            *_communication(config, machine, known),
            "",
            "Counted on the model without data: parameters, operations of the forward and of the gradients it needs,",
            "what autograd keeps. By arithmetic on parameter counts: weights, gradients, AdamW, average.",
            *_assumptions(config),
            "Not in it, to be measured: temporaries of the backward, the allocator's fragments, evaluation, samples.",
            *_whole_weights(config, machine, known.parameters),
        ]
    )


def batch_shape(config: TrainConfig, num_rows: int) -> BatchShape:
    """A micro-batch of the emoji world as it is made, or one of a corpus as it is assumed to be."""
    packing = config.model.language_model.packing
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
            documents=documents(batch, packing).lengths if config.attends_by_document else None,
        )
    row_tokens, visual = config.corpus.row_tokens, config.model.visual_tokenizer.num_visual_tokens
    each = row_tokens // DOCUMENTS_A_ROW
    in_a_row = (row_tokens,) if packing == "causal" else (row_tokens - each, *[each] * (DOCUMENTS_A_ROW - 1))
    num_images = max(1, row_tokens // (1 + visual + TEXT_TOKENS_AN_IMAGE)) * num_rows
    return BatchShape(
        num_rows=num_rows,
        row_tokens=row_tokens,
        num_images=num_images,
        num_drawn=round(DRAWN_SHARE * num_images),
        num_targets=num_rows * row_tokens - visual * num_images,
        context_tokens=each,
        documents=in_a_row * num_rows if config.attends_by_document else None,
    )


def step_flops(config: TrainConfig, plain: StepCost, recomputed: StepCost) -> int:
    """Of one micro-batch, forward, backward, and the forward again of what is recomputed."""
    again = sum(recomputed.forward_flops[RECOMPUTED_IN[part]] for part in config.memory.activation_checkpointing)
    return plain.flops + again


def _batch_line(config: TrainConfig, shape: BatchShape) -> str:
    source = "made by the recipe" if config.corpus is None else "assumed of the corpus"
    return (
        f"rows at a time, {source}: {shape.num_images} images, {shape.num_drawn} of them drawn, "
        f"{shape.num_targets:,} supervised tokens"
    )


def _communication(config: TrainConfig, machine: Machine, known: Figures) -> list[str]:
    """What a GPU sends in a step, and how long it takes where nothing else slows it down."""
    if machine.num_gpus == 1:
        return []
    shard_size = machine.shard_size(config)
    if machine.num_gpus % shard_size:
        return [f"parallel.shard_size {shard_size} does not divide {machine.num_gpus} GPUs: this run would be refused."]
    num_micro_batches = -(-known.num_rows // (machine.num_gpus * known.shape.num_rows))
    sent = communication(config, machine, known.parameters, num_micro_batches)
    lines = [
        "",
        f"sent by each GPU in a step: {sent.waited_for / GB:.2f} GB of weights and gradients at its begin and end, "
        f"{sent.between_copies / GB:.2f} GB",
        f"of sums between copies, both of which it waits for, and {sent.beside / GB:.2f} GB layer by layer, beside the "
        "computation",
    ]
    for name, links in LINKS.items():
        waited, beside = seconds(sent, machine, shard_size, links)
        step = _step_seconds(config, machine, known.flops, name)
        lines.append(
            f"{machine.num_gpus} {name} at {links[0] / GB:g} GB/s in a node of {NODE_GPUS}, {links[1] / GB:g} GB/s "
            f"between nodes: {waited:.2g} s waited for, {waited / step:.1%} of a step's {step:.3g} s; {beside:.2g} s "
            f"beside it{', more than the computation that hides it' if beside > step else ''}"
        )
    if known.num_rows % machine.num_gpus:
        lines.append(f"{known.num_rows} rows do not divide among {machine.num_gpus} GPUs: this run would be refused.")
    return lines


def _whole_weights(config: TrainConfig, machine: Machine, parameters: Parameters) -> list[str]:
    """When layers that are shared one by one are whole all the same."""
    if not config.parallel.shard_layers or machine.num_gpus == 1 or not config.logging.sample_every:
        return []
    samples = sample_bytes(config, machine, parameters)
    return [f"For samples it has all whole again, beside shards: {samples / GB:.1f} GB, {_share(samples, machine)}."]


def _assumptions(config: TrainConfig) -> list[str]:
    if config.corpus is None:
        return ["Assumed: that the utilisation is reached."]
    return [
        f"Assumed: that the utilisation is reached; an image to {TEXT_TOKENS_AN_IMAGE} tokens of text; that "
        f"{DRAWN_SHARE:.0%} of the images are drawn;",
        f"that a row has {DOCUMENTS_A_ROW} documents"
        + (", by which attention is computed." if config.attends_by_document else "."),
    ]


def _parameter_rows(parameters: Parameters) -> Rows:
    rows = {part: (n / 1e6, parameters.frozen[part] / 1e6) for part, n in parameters.trainable.items()}
    together = (parameters.num_trainable / 1e6, sum(parameters.frozen.values()) / 1e6)
    return {**rows, "together": together}


def _in(unit_bytes: float, rows: Mapping[str, tuple[float, ...]]) -> Rows:
    return {name: tuple(size / unit_bytes for size in sizes) for name, sizes in rows.items()}


def _table(title: str, columns: tuple[str, ...], rows: Rows) -> str:
    lines = [f"{title:28}" + "".join(f"{column:>12}" for column in columns)]
    lines += [f"{name:28}" + "".join(f"{number:12.2f}" for number in numbers) for name, numbers in rows.items()]
    return "\n".join(lines)


def _verdict(total: float, machine: Machine) -> str:
    verdict = _share(total, machine)
    if total > 0.9 * machine.gpu_bytes:
        verdict += (
            "; too little is left. Try --memory.activation_checkpointing,\n--memory.image_chunk, --memory.token_chunk, "
            "--memory.micro_batch_rows,\n"
            "--parallel.shard_layers true, --lora.rank 16 where the language model learns."
        )
    return verdict


def _share(size: float, machine: Machine) -> str:
    return f"{size / machine.gpu_bytes:.0%} of {machine.gpu_bytes / GB:g} GB"


def _times(config: TrainConfig, machine: Machine, flops: float) -> list[str]:
    lines = []
    for name, (peak, utilisation) in ACCELERATORS[config.precision].items():
        step = _step_seconds(config, machine, flops, name)
        hours = step * config.num_steps / 3600
        duration = f"{hours:.2g} hours" if hours < 48 else f"{hours / 24:.3g} days"
        lines.append(
            f"{machine.num_gpus} {name} at {utilisation:.0%} of {peak / 1e12:g} TFLOP/s ({config.precision}): "
            f"{step:.3g} s a step, {duration} for {config.num_steps:,} steps"
        )
    return lines


def _step_seconds(config: TrainConfig, machine: Machine, flops: float, name: str) -> float:
    """Of the computation on such accelerators, at the assumed utilisation."""
    peak, utilisation = ACCELERATORS[config.precision][name]
    return flops / (machine.num_gpus * peak * utilisation)
