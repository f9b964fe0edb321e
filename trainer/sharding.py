"""Trainable parameters, and frozen ones by choice, spread over the processes of a run with PyTorch's FSDP2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from trainer.config import UsageError
from trainer.distributed import Processes


class _Whole(nn.Module):
    """A module as the one unit that FSDP2 gathers before `forward` and reduces after its backward.

    Both happen once a step and for everything, whatever a process's share of the batch has in it: with a unit for each
    part, a process without images would leave the others waiting in the image decoder.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, device: torch.device) -> Tensor:
        return torch.zeros((), device=device, requires_grad=True) * 1  # FSDP2 listens to what has a history


class DataParallel:
    """A module that several processes train on shares of a batch; with one process, the module as it is.

    Between steps, each process holds its shard of every trainable parameter, a DTensor, and so do an optimizer and an
    average made of them. Frozen parameters are whole everywhere, but for those of `layers`: a layer has them whole
    while it computes, forward and backward, and shards otherwise.

    Args:
        module: on its device; the same in all processes.
        processes: who trains.
        shard_size: how many processes hold a trainable parameter together; 0: all of them. With 1, each has it whole
            (plain data parallelism), with a number in between, groups of so many have a copy each (HSDP).
        layers: submodules that every process calls equally often, whatever its share of the batch has in it: each call
            waits for everybody's shards.

    Raises:
        UsageError: `shard_size` does not divide the processes.
    """

    def __init__(
        self, module: nn.Module, processes: Processes, shard_size: int = 0, layers: Sequence[nn.Module] = ()
    ) -> None:
        self.module = module
        self._processes = processes
        self._device = next(module.parameters()).device
        self._whole: _Whole | None = None
        self._shards: FSDPModule | None = None  # the same object
        self._layers: list[FSDPModule] = []
        self._end: Tensor | None = None
        shard_size = shard_size or processes.num
        if processes.num % shard_size:
            raise UsageError(
                f"shard_size is {shard_size}, and there are {processes.num} processes; expected a divisor of their "
                "number, or 0 for all of them."
            )
        if processes.num > 1:
            shape = (processes.num // shard_size, shard_size)
            mesh = init_device_mesh(self._device.type, shape, mesh_dim_names=("copy", "shard"))
            self._whole = _Whole(module)
            self._shards = fully_shard(
                self._whole,
                mesh=mesh,
                reshard_after_forward=False,
                ignored_params={p for p in module.parameters() if not p.requires_grad},
            )
            self._shards.set_gradient_divide_factor(1.0)  # losses are divided by global counts: gradients add up
            self._shards.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply while it adds
            self._shard_layers(layers, mesh)

    def _shard_layers(self, layers: Sequence[nn.Module], mesh: DeviceMesh) -> None:
        """Each layer a unit of its own, apart from the trainable parameters, which one unit gathers once a step."""
        frozen = [layer for layer in layers if any(not p.requires_grad for p in layer.parameters())]
        if frozen:
            # It runs once before them, so that they are roots apart: below one root, every backward would reduce it.
            with self.whole():
                pass
        for layer in frozen:
            trainable = {p for p in layer.parameters() if p.requires_grad}
            self._layers.append(fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trainable))

    def gather(self) -> None:
        """Begin a step: the module has whole parameters until `reduce`, and gradients are added to their `.grad`."""
        if self._whole is not None:
            self._end = self._whole(self._device)

    def reduce(self) -> None:
        """End a step: parameters are sharded again, and each has the shard of the sum of everybody's gradients."""
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
        """Zeros where only other processes have a gradient; none where nobody has one, as in a single process."""
        trainable = [p for p in self.module.parameters() if p.requires_grad]
        num_with = self._processes.total([parameter.grad is not None for parameter in trainable])
        for parameter, num in zip(trainable, num_with, strict=True):
            if num and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def release(self) -> None:
        """Give the module whole, plain parameters again, equal in all processes, to be saved."""
        if self._whole is None:
            return
        whole: dict[nn.Parameter, nn.Parameter] = {}
        for module in self.module.modules():
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if isinstance(parameter, DTensor):
                    if parameter not in whole:
                        values = whole_tensor(parameter.detach())
                        whole[parameter] = nn.Parameter(values, requires_grad=parameter.requires_grad)
                    setattr(module, name, whole[parameter])
        self._whole = self._shards = None


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, as a plain one; all processes have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
