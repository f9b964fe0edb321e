"""The groups of settings that say how a run computes and what it writes. None of them decides what is learned, so a
resumed run may have others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from models.component_names import CheckpointedComponent
from trainer.errors import require

LONG_ROW = 8192
"""Tokens of a row from which on attention is computed by document, if nobody says otherwise."""


@dataclass(frozen=True)
class ParallelConfig:
    """How the processes that `torchrun` started share the work."""

    shard_size: int = 0
    """How many processes share one copy of the trainable parameters and of the optimizer's state (FSDP2). 0: all; 1:
    each has its own (plain data parallelism)."""

    shard_layers: bool = False
    """Share the language model's layers one by one, trained and frozen weights alike: a process holds a layer's weights
    whole only while it computes the layer, and all of them at the start and while samples are made. Less memory, more
    communication, the same result."""

    gather_dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the language model's trained weights while they are gathered for `shard_layers`, and computed with;
    bfloat16, for `precision` bfloat16 alone, halves those bytes. Shards and sums of gradients stay float32."""

    join_minutes: float = 4.0
    """How long processes wait for all to come, at the start and after one has died, before those that are missing are
    named and the others end."""

    watchdog_minutes: float = 20.0
    """How long one process may keep the others waiting, from joining to the last step, before the run names it and
    ends; `torchrun --max-restarts N` begins again then."""

    def __post_init__(self) -> None:
        require(self.shard_size >= 0, f"parallel.shard_size is {self.shard_size}; expected 0 or more.")
        require(
            not self.shard_layers or self.shard_size != 1,
            "parallel.shard_layers is true, with parallel.shard_size 1, by which no weights are shared; expected "
            "another shard_size: 0 for all processes, or a divisor of their number.",
        )
        require(
            self.shard_layers or self.gather_dtype == "float32",
            "parallel.gather_dtype is bfloat16, and parallel.shard_layers is false, by which no layers are gathered; "
            "expected shard_layers true, or gather_dtype float32.",
        )
        for name in ("join_minutes", "watchdog_minutes"):
            require(getattr(self, name) > 0, f"parallel.{name} is {getattr(self, name)}; expected a number above 0.")


@dataclass(frozen=True)
class MemoryConfig:
    """How much of a step is in memory at a time. The result of a step is the same with any of these."""

    micro_batch_rows: int = 0
    """Rows (or images, in the encoder's pre-training) that a process computes at a time; their gradients are added up
    before the update. 0: all of its share of the batch at once."""

    image_chunk: int = 0
    """Drawn images of a micro-batch whose U-Net activations are in memory at a time; 0: all. Costs no time."""

    token_chunk: int = 0
    """Supervised tokens of a micro-batch whose logits are in memory at a time; 0: all. The language model's head is
    computed twice."""

    activation_checkpointing: list[CheckpointedComponent] = field(default_factory=list)
    """Components whose layers store only their inputs and are computed again for the gradient."""

    attention_by_document: bool | None = None
    """Compute the language model's attention document by document, without a mask whose size is the square of
    `row_tokens`. null: where rows have 8,192 tokens or more."""

    def __post_init__(self) -> None:
        for name in ("micro_batch_rows", "image_chunk", "token_chunk"):
            require(getattr(self, name) >= 0, f"memory.{name} is {getattr(self, name)}; expected 0 or more.")


@dataclass(frozen=True)
class LoggingConfig:
    """What a run reports, and how often."""

    every: int = 20
    """Steps between two progress lines, and between two points in TensorBoard; log.jsonl has every step."""

    sample_every: int = 0
    """Steps between two sheets of samples in samples/, made from held-out documents of the emoji world or of the corpus
    (`held_out` of its sources), with another one after the last step; 0: none. The other processes wait meanwhile."""

    wandb: str | None = None
    """A Weights & Biases project that also gets the settings and all records of log.jsonl; null: none. After the
    command `wandb offline` they stay in the run directory, for `wandb sync`."""

    every_rank: bool = False
    """Progress lines of every process, with its own seconds and wait for data, not of the first one alone. For
    `torchrun --log-dir DIR --tee 3 --local-ranks-filter 0`, which keeps a file for each and shows the first one."""

    grad_norms_every: int = 0
    """Steps between two records of the norms of the gradients of each part and layer (`grad_norm/...` in log.jsonl and
    TensorBoard); 0: none."""

    spike_deviations: float = 10.0
    """A loss so many standard deviations above the median of the last 128 steps is told of, with the documents of its
    batch in log.jsonl; 0: none is. The step counts like any other."""

    peak_tflops: float | None = None
    """Peak matrix-product throughput of one device in `precision`, in 10^12 operations a second, for the model FLOPs
    utilisation (MFU) in the log. null: known for common NVIDIA GPUs in bfloat16, else no MFU is logged."""

    def __post_init__(self) -> None:
        require(self.every >= 1, f"logging.every is {self.every}; expected 1 or more.")
        for name in ("sample_every", "grad_norms_every", "spike_deviations"):
            require(getattr(self, name) >= 0, f"logging.{name} is {getattr(self, name)}; expected 0 or more.")
        require(
            self.wandb is None or self.wandb != "",
            "logging.wandb is empty; expected the name of a project, or null for none.",
        )
        require(
            self.peak_tflops is None or self.peak_tflops > 0,
            f"logging.peak_tflops is {self.peak_tflops}; expected a number above 0, or null for a GPU known by its "
            "name.",
        )


@dataclass(frozen=True)
class ProfileConfig:
    """Which steps are recorded in RUN/profile with torch.profiler, and on a GPU their memory. They are slower."""

    num_steps: int = 0
    """So many steps of each phase; 0: none."""

    first_step: int = 10
    """The first of them, counted from 1; those before it are slow for reasons of their own."""

    ranks: list[int] = field(default_factory=lambda: [0])
    """The processes that record."""

    def __post_init__(self) -> None:
        require(self.num_steps >= 0, f"profile.num_steps is {self.num_steps}; expected 0 or more.")
        require(self.first_step >= 1, f"profile.first_step is {self.first_step}; expected 1 or more.")


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written, and how many stay."""

    every: int = 500
    """Steps between two checkpoints."""

    keep_latest: int = 2
    """How many of the newest checkpoints stay."""

    def __post_init__(self) -> None:
        for name in ("every", "keep_latest"):
            require(getattr(self, name) >= 1, f"checkpoint.{name} is {getattr(self, name)}; expected 1 or more.")
