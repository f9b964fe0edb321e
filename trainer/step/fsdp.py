"""Trainable parameters, and by choice whole layers, spread over the processes of a run with PyTorch's FSDP2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from models.sharded_tensors import full_tensor
from trainer.errors import UsageError
from trainer.process.distributed import Processes
from trainer.step.starting_weights import ParameterOwners, StartingWeights, Stored, read_stored


class _Whole(nn.Module):
    """A module as the one unit that FSDP2 gathers before `forward` and reduces after its backward.

    Both happen once a step and for everything, whatever a process's share of the batch has in it: with a unit for each
    part, a process without images would leave the others waiting in the image decoder.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, device: torch.device) -> Tensor:
        return torch.zeros((), device=device, requires_grad=True) * 1  # FSDP2 hooks onto a tensor that needs a gradient


class ParallelModule:
    """A module that several processes train on shares of a batch; with one process, the module as it is.

    Between steps, each process holds its shard of every trainable parameter, a DTensor, and so do an optimizer and an
    average made of them. Frozen parameters are whole everywhere. The layers of `stack` are apart: each has its
    parameters, frozen or not, whole while it computes, forward and backward, and shards otherwise; a backward through
    it adds the gradients of all processes to their shards.

    Args:
        module: the same in all processes; the first one has the numbers of all parameters that are not `stored`.
        processes: who trains.
        device: where the module is to be.
        shard_size: how many processes hold a trainable parameter together; 0: all of them. With 1, each has it whole
            (plain data parallelism), with a number in between, groups of so many have a copy each (HSDP).
        gather_dtype: of the trained weights of the layers of `stack` on their way to the processes and while they
            compute; their gradients are added up in float32, and so are the shards that learn. None: as they are.
        stack: a submodule whose forward runs each of its `layers` once. Every process calls it equally often, forward
            and backward, whatever its share of the batch has in it: each layer waits for the shards of all processes.

    Raises:
        UsageError: `shard_size` does not divide the processes.
    """

    def __init__(
        self,
        module: nn.Module,
        processes: Processes,
        device: torch.device,
        shard_size: int = 0,
        stack: nn.Module | None = None,
        gather_dtype: torch.dtype | None = None,
        stored: Stored | None = None,
    ) -> None:
        self.module = module
        self._processes = processes
        self._device = device
        self._whole: _Whole | None = None
        self._shards: FSDPModule | None = None  # the same object
        self._layers: list[FSDPModule] = []
        self._end: Tensor | None = None
        shard_size = shard_size or processes.num
        if processes.num % shard_size:
            raise UsageError(
                f"parallel.shard_size is {shard_size}, and there are {processes.num} processes; expected a divisor of "
                "their number, or 0 for all of them."
            )
        stored = {} if stored is None else stored
        if processes.num == 1:
            read_stored(module, device, stored)
            module.to(device)
            return
        sizes = {"copy": processes.num // shard_size, "shard": shard_size}
        if sizes["copy"] == 1:
            del sizes["copy"]  # else FSDP2 adds up over it, and keeps what it has added until the backward's end
        mesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        layers = [] if stack is None else list(stack.get_submodule("layers").children())
        weights = StartingWeights(module, processes, device, stored)
        names = {parameter: name for name, parameter in module.named_parameters()}
        in_layers = dict.fromkeys(names[parameter] for layer in layers for parameter in layer.parameters())
        self._whole = _Whole(module)
        self._shards = fully_shard(
            self._whole,
            mesh=mesh,
            reshard_after_forward=False,
            ignored_params=_frozen_or_in(layers, module),
        )
        _add_up(self._shards)
        weights.put(name for name in names.values() if name not in in_layers)
        # Its root is found before the layers are units: below one root, every backward of the stack would reduce it.
        _find_root(self._shards)
        if stack is not None:
            self._shard_layers(stack, layers, mesh, gather_dtype)
            weights.put(in_layers)
            _find_root(stack)

    def _shard_layers(
        self, stack: nn.Module, layers: list[nn.Module], mesh: DeviceMesh, gather_dtype: torch.dtype | None
    ) -> None:
        """Each layer a unit of its own, apart from the other parameters, which one unit gathers once a step."""
        sums = None if gather_dtype is None else torch.float32
        policy = MixedPrecisionPolicy(param_dtype=gather_dtype, reduce_dtype=sums, cast_forward_inputs=False)
        for layer in layers:
            unit = fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
            _add_up(unit)
            # In the backward, the one before is gathered meanwhile. FSDP2 would find out by itself which one that is,
            # but from all forwards, and so wrongly after samples, whose forwards are those of the first process alone.
            unit.set_modules_to_backward_prefetch([self._layers[-1] if self._layers else unit])
            self._layers.append(unit)
        # Without a root in common, all their gradients would be kept until the end of the backward.
        fully_shard(stack, mesh=mesh, ignored_params=set(stack.parameters()))

    def gather(self) -> None:
        """Begin a step: the module has whole parameters until `reduce`, and gradients are added to their `.grad`."""
        if self._whole is not None:
            self._end = self._whole(self._device)

    def reduce(self) -> None:
        """End a step: parameters are sharded again, and each has its shard of the sum of all processes' gradients."""
        if self._end is not None:
            self._agree_on_gradients()
            self._end.backward()
            self._end = None

    def abandon(self) -> None:
        """End a step without its gradients."""
        for parameter in self.module.parameters():
            parameter.grad = None
        if self._shards is not None:
            self._shards.reshard()
            self._end = None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Between steps: inside, the module has whole parameters, to compute with but not to train. Each process may
        then compute by itself."""
        with torch.no_grad():
            self.gather()
        for layer in self._layers:
            layer.set_reshard_after_forward(False)
            layer.unshard()
        try:
            yield
        finally:
            self.abandon()
            for layer in self._layers:
                layer.set_reshard_after_forward(True)
                layer.reshard()

    def _agree_on_gradients(self) -> None:
        """Zeros where only other processes have a gradient; none where nobody has one, as in a single process. The
        gradients of layers are shards of the sum already."""
        trainable = [p for p in self.module.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        num_with = self._processes.all_reduce_sum([parameter.grad is not None for parameter in trainable])
        for parameter, num in zip(trainable, num_with, strict=True):
            if num and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def release(self) -> None:
        """Give the module whole, plain parameters again, equal in all processes, for another training.

        Those that were shared are on the CPU now, since a device need not have room for all of them, and the layers of
        a stack would still gather their shards if they were called.
        """
        if self._whole is None:
            return
        owners = ParameterOwners(self.module)
        for name, parameter in owners.named_parameters().items():
            if isinstance(parameter, DTensor):
                owners.replace(name, full_tensor(parameter.detach()).cpu())
        self._whole = self._shards = None
        self._layers = []


def _frozen_or_in(layers: list[nn.Module], module: nn.Module) -> set[nn.Parameter]:
    frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    return frozen.union(*(layer.parameters() for layer in layers))


def _add_up(unit: FSDPModule) -> None:
    """Losses are divided by global counts, so gradients are added, not averaged."""
    unit.set_gradient_divide_factor(1.0)
    unit.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply while it adds


def _find_root(unit: nn.Module | FSDPModule) -> None:
    """Let FSDP2 do what it would do at the first forward: see that this module is the root of the units below it, and
    take the shards that its parameters have now. A forward would also gather all of them."""
    fully_shard.state(unit)._lazy_init()  # type: ignore[attr-defined]
