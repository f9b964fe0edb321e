"""What the processes of a run keep in the memory of their machines, beside Python and the data: arithmetic on counts of
parameters."""

from __future__ import annotations

import torch

from trainer.config import TrainConfig
from trainer.cost.gpu_memory import Machine, Parameters


def host_bytes(config: TrainConfig, machine: Machine, parameters: Parameters) -> dict[str, tuple[float, float]]:
    """By moment, of the first process and of each other one.

    Of weights in files (`init`), every process reads its own rows, one tensor after the other. Random ones, and those
    of pre-trained parts, are made in the first process, which sends them on (`trainer.step.starting_weights`). A
    checkpoint is written from a copy of what a process holds of the trained weights, AdamW's state and the average. In
    the end each tensor is gathered when it is written.
    """
    shards = machine.shard_size(config)
    whole = 0.0
    if config.init is None or config.init_components is not None:
        whole = 4.0 * (parameters.num_trainable + sum(parameters.frozen.values()))
    if config.parts is not None:
        of_host = parameters.trainable.get("language model", 0) + parameters.frozen.get("language model", 0)
        whole -= (4 - getattr(torch, config.parts.language_model_dtype).itemsize) * of_host
    state = (4 if config.ema_decay else 3) * 4.0 * parameters.num_trainable / shards
    largest = float(parameters.largest_bytes)
    return {
        "at the start": (whole + largest, largest),
        "copy for a checkpoint": (state, state),
        "at the end": (largest, largest),
    }
