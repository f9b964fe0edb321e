"""The numbers that a module starts with, put where they belong: each process gets what it holds, tensor by tensor.

A parameter's numbers are in files, of which every process reads its own rows, or in the first process alone (random
ones, and those that a library loads), which sends the others their rows and lets go of the tensor. So all processes of
a machine together need the memory of one copy and of one tensor more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.free_memory import FreeMemory
from models.stored_weights import StoredWeights
from trainer.errors import UsageError
from trainer.process.distributed import Processes


class RowsInFiles(Protocol):
    """A tensor that is made of files, which every process can read."""

    def copy_rows(self, target: Tensor, first_row: int = 0) -> None:
        """Make the rows from `first_row` on, as many as `target` has, in its place and dtype."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it is in the files of a model."""

    weights: StoredWeights
    name: str

    def copy_rows(self, target: Tensor, first_row: int = 0) -> None:
        """See `StoredWeights.copy_rows`."""
        self.weights.copy_rows(self.name, target, first_row)


Stored = dict[nn.Parameter, RowsInFiles]
"""Parameters on the meta device whose numbers are still in files."""


class ParameterOwners:
    """Where in a module its parameters are, so that others can be put there.

    Args:
        module: whose parameters have these names as long as this is used.
    """

    def __init__(self, module: nn.Module) -> None:
        names: dict[nn.Parameter, str] = {}
        self._owners: dict[str, list[tuple[nn.Module, str]]] = {}
        for prefix, owner in module.named_modules():
            for leaf, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
                name = names.setdefault(parameter, f"{prefix}.{leaf}" if prefix else leaf)
                self._owners.setdefault(name, []).append((owner, leaf))

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """As they are now; a tied parameter comes once, under its first name."""
        return {name: getattr(*places[0]) for name, places in self._owners.items()}

    def replace(self, name: str, values: Tensor) -> nn.Parameter:
        """Put another parameter in all places of one, which needs a gradient if that did."""
        new = nn.Parameter(values, requires_grad=getattr(*self._owners[name][0]).requires_grad)
        for owner, leaf in self._owners[name]:
            setattr(owner, leaf, new)
        return new


def keep_in_files(module: nn.Module, stored: Stored, *, has_others: bool) -> Stored:
    """Put parameters that are in files on the meta device, and unless this process `has_others`, all others too.

    Returns:
        The same places, for what has become of the parameters.
    """
    owners = ParameterOwners(module)
    kept: Stored = {}
    for name, parameter in owners.named_parameters().items():
        if parameter in stored:
            kept[owners.replace(name, _on_meta(parameter))] = stored[parameter]
        elif not has_others:
            owners.replace(name, _on_meta(parameter))
    return kept


@torch.no_grad()
def read_stored(module: nn.Module, device: torch.device, stored: Stored) -> None:
    """Read the parameters of a module that are still in files, in a process that has all of it; each is read straight
    into its place, in the type that it is to have."""
    owners = ParameterOwners(module)
    for name, parameter in owners.named_parameters().items():
        if (place := stored.pop(parameter, None)) is not None:
            values = torch.empty_like(parameter, device=device)
            place.copy_rows(values)
            owners.replace(name, values)


class StartingWeights:
    """The numbers of a module's parameters, taken out of it while several processes share them out; what is left are
    parameters on the meta device.

    Args:
        module: with the same parameters in all processes; the first one has the numbers of all that are not `stored`.
        processes: who trains; all of them do everything together.
        device: where the module is to be.
        stored: what is in files; the parameters of this module are removed from it.

    Raises:
        UsageError: the processes have different parameters.
    """

    def __init__(self, module: nn.Module, processes: Processes, device: torch.device, stored: Stored) -> None:
        self._owners = ParameterOwners(module)
        self._processes = processes
        self._device = device
        self._places: dict[str, RowsInFiles] = {}
        self._numbers: dict[str, Tensor] = {}
        self._free = FreeMemory()
        parameters = self._owners.named_parameters()
        self._check_equal(parameters, {name for name, parameter in parameters.items() if parameter in stored})
        for name, parameter in parameters.items():
            if (place := stored.pop(parameter, None)) is not None:
                self._places[name] = place
            elif processes.is_first:
                self._numbers[name] = parameter.detach()
            self._owners.replace(name, _on_meta(parameter))
        for buffer in module.buffers():
            values = buffer.cpu().contiguous()
            dist.broadcast(values, 0)
            buffer.data = values.to(device)

    def _check_equal(self, parameters: dict[str, nn.Parameter], stored: set[str]) -> None:
        """Else a process would wait for what nobody sends."""
        told = [(name, tuple(p.shape), p.dtype, p.requires_grad, name in stored) for name, p in parameters.items()]
        number = int.from_bytes(hashlib.sha256(repr(told).encode()).digest()[:7], "big")
        if self._processes.all_reduce_max(number) != -self._processes.all_reduce_max(-number):
            raise UsageError(
                "The processes have made models with different parameters. Expected the same settings, code, packages "
                "and files of pre-trained networks on all machines."
            )

    @torch.no_grad()
    def put(self, names: Iterable[str]) -> None:
        """Give these parameters, which may be sharded by now, their numbers on the device."""
        parameters = self._owners.named_parameters()
        for name in names:
            self._processes.watchdog.enters(f"the numbers of {name}")
            parameter = parameters[name]
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()
            values = torch.empty_like(local, device=self._device)
            if name in self._places:
                place = self._places.pop(name)
                if values.numel():
                    place.copy_rows(values, self._first_row(parameter, self._processes.rank))
            else:
                self._receive(name, parameter, values)
            if isinstance(parameter, DTensor):
                values = DTensor.from_local(
                    values,
                    parameter.device_mesh,
                    parameter.placements,
                    run_check=False,
                    shape=parameter.shape,
                    stride=parameter.stride(),
                )
            parameters[name] = self._owners.replace(name, values)
        self._free.give_back()

    def _receive(self, name: str, parameter: Tensor, values: Tensor) -> None:
        """Fill `values`, this process's rows of a parameter, from the first process."""
        numbers = self._numbers.pop(name, None)
        if numbers is not None:
            self._free.let_go(numbers.nbytes)  # those of the tensors before
            numbers = numbers.to("cpu", parameter.dtype).contiguous()
        if self._num_shards(parameter) == 1:
            whole = torch.empty_like(values, device="cpu") if numbers is None else numbers
            dist.broadcast(_as_bytes(whole), 0)
            values.copy_(whole)
        else:
            shares = None
            if numbers is not None:
                shares = [_as_bytes(self._rows(parameter, numbers, rank)) for rank in range(self._processes.num)]
            rows = torch.empty(self._rows_at_most(parameter), *parameter.shape[1:], dtype=parameter.dtype)
            dist.scatter(_as_bytes(rows), shares, 0)
            values.copy_(rows[: len(values)])

    def _rows(self, parameter: Tensor, numbers: Tensor, rank: int) -> Tensor:
        """What a process holds of a parameter, filled up to as many rows as any."""
        first, most = self._first_row(parameter, rank), self._rows_at_most(parameter)
        rows = numbers[first : first + most]
        return rows if len(rows) == most else torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])

    def _num_shards(self, parameter: Tensor) -> int:
        return parameter.device_mesh.size(-1) if isinstance(parameter, DTensor) else 1

    def _rows_at_most(self, parameter: Tensor) -> int:
        """FSDP2 gives each process so many rows as long as there are any."""
        return -(-len(parameter) // self._num_shards(parameter))

    def _first_row(self, parameter: Tensor, rank: int) -> int:
        num_shards = self._num_shards(parameter)
        return 0 if num_shards == 1 else min(len(parameter), rank % num_shards * self._rows_at_most(parameter))


def _on_meta(parameter: Tensor) -> Tensor:
    return torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")


def _as_bytes(tensor: Tensor) -> Tensor:
    """The same memory; so any type can be sent."""
    return tensor.reshape(-1).view(torch.uint8)
