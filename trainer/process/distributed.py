"""The processes of a run: those that `torchrun` started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

TIMEOUT = timedelta(hours=2)
"""How long processes wait for each other before PyTorch gives up: longer than any watchdog, which knows more to say."""


@dataclass(frozen=True)
class Processes:
    """This process among all of a run. Every method that is not a property is a collective: all have to call it."""

    rank: int
    """From 0 to num - 1. The first one writes the log and tells what happens."""

    num: int
    local_rank: int
    """Its number on its machine, which is also its GPU's."""

    saving: dist.ProcessGroup
    """For the thread that writes checkpoints, whose communication must not mix with the training's."""

    store: dist.Store
    """Text by name that all processes see, for threads."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, numbers: Sequence[int]) -> list[int]:
        """The sums of whole numbers over all processes. They are on the CPU, so that no GPU has to finish first."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def all_reduce_max(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        return self._reduced([number], dist.ReduceOp.MAX)[0]

    def _reduced(self, numbers: Sequence[int], how: dist.ReduceOp.RedOpType) -> list[int]:
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, how)
        return tensor.tolist()

    def all_reduce_sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, on their devices."""
        if self.num > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        self.all_reduce_sum([0])


def is_launched() -> bool:
    """Whether `torchrun` started this process."""
    return dist.is_torchelastic_launched()


def local_rank() -> int:
    """The number that `torchrun` gave this process on its machine; 0 without it."""
    return int(os.environ["LOCAL_RANK"]) if is_launched() else 0


def num_local() -> int:
    """How many processes `torchrun` started on this machine; 1 without it."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if is_launched() else 1


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the process group of `torchrun`; without it, a group of one process.

    Whole numbers are reduced with gloo, gradients on GPUs with NCCL.
    """
    if is_launched():
        store, rank, num = next(rendezvous("env://"))
    else:
        store, rank, num = dist.HashStore(), 0, 1
    on_gpus = device.type == "cuda" and num > 1
    if on_gpus:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=dist.PrefixStore("training", store),
        rank=rank,
        world_size=num,
        timeout=TIMEOUT,
    )
    try:
        yield Processes(
            rank=rank,
            num=num,
            local_rank=local_rank(),
            saving=dist.new_group(backend="gloo", timeout=TIMEOUT),
            store=dist.PrefixStore("threads", store if num == 1 else store.clone()),
        )
    finally:
        dist.destroy_process_group()
