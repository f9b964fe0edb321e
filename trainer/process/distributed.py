"""The processes of a run: those that `torchrun` started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import RendezvousError
from trainer.process.flight_recorder import leave_traces, record_collectives
from trainer.process.interrupt import Interrupt
from trainer.process.rendezvous import Rendezvous
from trainer.process.watchdog import Watchdog
from trainer.system_config import ParallelConfig

TIMEOUT = timedelta(hours=2)
"""How long processes wait for each other before PyTorch gives up: longer than any watchdog, which knows more to say."""

_DEFAULT = ParallelConfig()


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

    watchdog: Watchdog
    """Looks whether all get from one stage to the next, and ends this process if not."""

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


def rank() -> int:
    """The number that `torchrun` gave this process among all; 0 without it."""
    return int(os.environ["RANK"]) if is_launched() else 0


def local_rank() -> int:
    """The number that `torchrun` gave this process on its machine; 0 without it."""
    return int(os.environ["LOCAL_RANK"]) if is_launched() else 0


def agent_rank() -> int:
    """The number of the `torchrun` that started this process among those of all nodes; 0 without it."""
    return int(os.environ["GROUP_RANK"]) if is_launched() else 0


def num_local() -> int:
    """How many processes `torchrun` started on this machine; 1 without it."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if is_launched() else 1


@contextmanager
def joined(
    device: torch.device,
    parallel: ParallelConfig = _DEFAULT,
    interrupt: Interrupt | None = None,
    *,
    hang_directory: Path | None = None,
    on_traces: Callable[[Collection[Path]], None] = lambda files: None,
) -> Iterator[Processes]:
    """Join the process group of `torchrun`; without it, a group of one process.

    Whole numbers are reduced with gloo, gradients on GPUs with NCCL. Nothing is read of what an earlier attempt of the
    same `torchrun` has left (`trainer.process.rendezvous`), and from then on a watchdog looks after the others.

    Args:
        device: of this process.
        parallel: how long to wait for others, in the beginning and later.
        interrupt: what may end the wait in the beginning.
        hang_directory: where each process leaves what it was doing when the watchdog ends it; None: nowhere.
        on_traces: called with the files that it has left there.

    Raises:
        RendezvousError: some processes have not come in time, and which.
        Interrupted: `interrupt` has a reason to stop already.
    """
    place, num = rank(), int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    limit_s = 60 * parallel.watchdog_minutes
    if num == 1:
        store: dist.Store = dist.HashStore()
        for_threads: dist.Store = store
        watchdog = Watchdog(place, num, store, limit_s)
    else:
        common: Any = _common_store(place, 60 * parallel.join_minutes)
        aside = common.clone()  # whose answers the watchdog gets while this thread waits for others at `common`
        rendezvous = Rendezvous(aside, place, num)
        try:
            attempt = rendezvous.meet(60 * parallel.join_minutes, None if interrupt is None else interrupt.check)
        except dist.DistError as error:
            raise RendezvousError(
                "What the processes meet through has ended while this one waited for others: the first node's torchrun "
                "or, without one that keeps it, the first process."
            ) from error

        def leave() -> None:
            assert hang_directory is not None
            on_traces(leave_traces(hang_directory / attempt.name, place))

        store = dist.PrefixStore(attempt.name, common)
        for_threads = dist.PrefixStore(attempt.name, common.clone())
        record_collectives(None if hang_directory is None else hang_directory / attempt.name)
        watchdog = Watchdog(
            place,
            num,
            dist.PrefixStore(f"{attempt.name}/watchdog", aside),
            limit_s,
            began_again=lambda: rendezvous.began_again(attempt),
            leave=None if hang_directory is None else leave,
        )
    on_gpus = device.type == "cuda" and num > 1
    if on_gpus:
        torch.cuda.set_device(device)
    with watchdog:
        watchdog.enters("the making of process groups")
        with interrupt.sigterm_ends() if interrupt is not None and num > 1 else nullcontext():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=dist.PrefixStore("training", store),
                rank=place,
                world_size=num,
                timeout=TIMEOUT,
            )
            saving = dist.new_group(backend="gloo", timeout=TIMEOUT)
        try:
            watchdog.allows_waiting("what follows")
            yield Processes(
                rank=place,
                num=num,
                local_rank=local_rank(),
                saving=saving,
                store=dist.PrefixStore("threads", for_threads),
                watchdog=watchdog,
            )
        finally:
            dist.destroy_process_group()


def _common_store(place: int, limit_s: float) -> dist.Store:
    """What all attempts of a `torchrun` share. Raises RendezvousError if nobody answers in time."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_kept_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    try:
        return dist.TCPStore(
            host,
            port,
            is_master=place == 0 and not is_kept_by_agent,
            timeout=timedelta(seconds=limit_s),
            wait_for_workers=False,  # which would not say who is missing
            multi_tenant=True,
        )
    except dist.DistError as error:
        raise RendezvousError(
            f"Nobody answers at {host}:{port}, where the processes meet, within {limit_s:g} s ({error}). Look whether "
            "the first node is up and lets others in at this port."
        ) from error
