"""What the GPUs of a run send each other in a step, and how long that takes: arithmetic on counts of parameters."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import TrainConfig
from trainer.cost.gpu_memory import Machine, Parameters, gather_share

NODE_GPUS = 8
"""GPUs that NVLink joins, in NVIDIA's HGX and DGX machines."""

LINKS = {"A100": (300e9, 25e9), "H100": (450e9, 50e9)}
"""Bytes a second that a GPU sends: by NVLink within a node, and between nodes, with a network card of its own (NVIDIA's
data sheets of DGX A100 and DGX H100: 600 and 900 GB/s both ways together, 200 and 400 Gbit/s)."""


@dataclass(frozen=True)
class Communication:
    """Bytes that one GPU sends in a step; it receives as many."""

    waited_for: float
    """Trained weights outside of the layers that are shared one by one, before the first micro-batch, and their
    gradients after the last: the GPU computes nothing meanwhile."""

    beside: float
    """Layers that are shared one by one, and their gradients: sent while other layers are computed."""

    between_copies: float
    """What of both goes between groups that have a copy each (`shard_size`): sums of gradients."""


def communication(
    config: TrainConfig, machine: Machine, parameters: Parameters, num_micro_batches: int
) -> Communication:
    """By rings, in which a GPU of n sends (n - 1) / n of what is gathered or scattered, and twice that for a sum.

    Args:
        config: the run.
        machine: its GPUs.
        parameters: of its model.
        num_micro_batches: of one GPU in a step; layers are gathered for each, forward and backward.
    """
    shards = machine.shard_size(config)
    copies = machine.num_gpus // shards
    layers = parameters.layers if config.parallel.shard_layers else ()
    in_layers = float(sum(layer.trained for layer in layers))
    together = 4.0 * parameters.num_trainable - in_layers
    gathered = sum(layer.frozen + layer.trained * gather_share(config) for layer in layers)
    others, other_copies = (shards - 1) / shards, 2 * (copies - 1) / copies
    return Communication(
        waited_for=2 * others * together,
        beside=num_micro_batches * others * (2 * gathered + in_layers),
        between_copies=other_copies * (together + num_micro_batches * in_layers) / shards,
    )


def seconds(sent: Communication, machine: Machine, shard_size: int, links: tuple[float, float]) -> tuple[float, float]:
    """What a step waits for, and what passes beside its computation; in a group within a node by NVLink."""
    within, between = links
    shards = within if (shard_size or machine.num_gpus) <= NODE_GPUS else between
    copies = within if machine.num_gpus <= NODE_GPUS else between
    return sent.waited_for / shards + sent.between_copies / copies, sent.beside / shards
