"""What each of several processes holds of a module, for tests that start them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from live_bytes import LiveBytes
from models.sharded_tensors import full_tensor
from models.stored_weights import StoredWeights
from models.tensor_files import write_tensors
from trainer.process.distributed import joined
from trainer.step.ema import WeightEMA
from trainer.step.fsdp import ParallelModule
from trainer.step.starting_weights import StoredTensor, keep_in_files
from two_branches import Branches

WIDTH, NUM_LAYERS = 64, 4


class EqualLayers(nn.Module):
    """Matrices, one after the other."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(num))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def write_layers_at_once(out: str, num_layers: int, shard_layers: bool) -> int:
    """Leave in at_once<rank>.json how many layers the tensors of a step of two micro-batches would fill, but for the
    gathered weights, whose storages FSDP2 makes once and empties."""
    with joined(torch.device("cpu")) as processes:
        module = nn.Sequential(nn.Linear(1, WIDTH), EqualLayers(num_layers))
        parallel = ParallelModule(module, processes, torch.device("cpu"), stack=module[1] if shard_layers else None)
        for _ in range(2):
            with LiveBytes() as live:
                parallel.gather()
                for _ in range(2):
                    module(torch.ones(1, 1)).sum().backward()
                parallel.reduce()
            for parameter in module.parameters():
                parameter.grad = None
        Path(out, f"at_once{processes.rank}.json").write_text(json.dumps(live.peak / (4 * WIDTH**2)))
    return 0


class BytesSent(TorchDispatchMode):
    """Adds up the outputs of gathering collectives and the inputs of scattering ones."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = 0
        self.scattered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d._allgather_base_.default:
            self.gathered += args[0].nbytes
        elif func is torch.ops.c10d._reduce_scatter_base_.default:
            self.scattered += args[1].nbytes
        return func(*args, **(kwargs or {}))


def write_bytes_sent(out: str, gather_dtype: torch.dtype | None) -> int:
    """Leave in sent<rank>.json the bytes of a step of two micro-batches in layers, and the gradients that it leaves."""
    with joined(torch.device("cpu")) as processes:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(1, WIDTH), EqualLayers(NUM_LAYERS))
        parallel = ParallelModule(module, processes, torch.device("cpu"), stack=module[1], gather_dtype=gather_dtype)
        with BytesSent() as sent:
            parallel.gather()
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                    loss = module(torch.ones(3, 1)).float().square().mean()
                loss.backward()
            parallel.reduce()
        gradients = [full_tensor(p.grad) for p in module[1].parameters() if p.grad is not None]
        facts = {
            "gathered": sent.gathered,
            "scattered": sent.scattered,
            "norms": [float(gradient.norm()) for gradient in gradients],
            "dtypes": [str(gradient.dtype) for gradient in gradients],
        }
        Path(out, f"sent{processes.rank}.json").write_text(json.dumps(facts))
    return 0


def write_numbers_held(out: str, shard_layers: bool) -> int:
    """Leave in held<rank>.json how many numbers of the small problem's parameters and averages this process holds: of
    each kind between steps, of all while others may compute with them alone, and after the end."""
    with joined(torch.device("cpu")) as processes:
        module = Branches()
        parallel = ParallelModule(module, processes, torch.device("cpu"), stack=module.stack if shard_layers else None)
        average = WeightEMA(module, 0.9)
        held = {
            "trainable": sum(numbers_of(p) for p in module.parameters() if p.requires_grad),
            "frozen": sum(numbers_of(p) for p in module.parameters() if not p.requires_grad),
            "average": sum(numbers_of(a) for name, a in average.tensors().items() if name != "num_updates"),
        }
        with parallel.whole():
            held["all, for samples"] = sum(map(numbers_of, module.parameters()))
            if processes.is_first:  # nobody else takes part
                with torch.no_grad():
                    module.stack(torch.ones(2, 5))
                    module.stack(torch.ones(2, 5))
        held["all, between steps again"] = sum(map(numbers_of, module.parameters()))
        parallel.release()
        held["all in the end"] = sum(map(numbers_of, module.parameters()))
        Path(out, f"held{processes.rank}.json").write_text(json.dumps(held))
    return 0


def numbers_of(tensor: Tensor) -> int:
    """In this process."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()


class Kinds(nn.Module):
    """Parameters of several types, shapes and fates: tied ones, one without dimensions, more rows than processes and
    fewer, frozen ones in half precision, and a buffer that belongs to the weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.outside = nn.Linear(5, 7)
        self.kept = nn.Linear(7, 3).requires_grad_(False).bfloat16()
        self.one = nn.Parameter(torch.randn(1))
        self.norm = nn.BatchNorm1d(7)
        self.norm.running_mean.normal_()
        self.stack = EqualLayers(2)
        self.stack.layers[1].weight.requires_grad_(False)
        self.tied = nn.Linear(5, 7, bias=False)
        self.tied.weight = self.outside.weight


def write_started(out: str, stored_in: str, shard_size: int, shard_layers: bool) -> int:
    """Leave in started<rank>.pt the parameters and buffers of a module that several processes have begun to share,
    gathered again; the first one had some of them, the others are in files."""
    with joined(torch.device("cpu")) as processes:
        module = Kinds(seed=processes.rank)
        weights = StoredWeights(Path(stored_in))
        named = dict(module.named_parameters())
        stored = {named[name]: StoredTensor(weights, name) for name in IN_FILES}
        stored = keep_in_files(module, stored, has_others=processes.is_first)
        stack = module.stack if shard_layers else None
        parallel = ParallelModule(module, processes, torch.device("cpu"), shard_size, stack, stored=stored)
        assert not stored, "all of them were read"
        assert module.tied.weight is module.outside.weight
        held = sum(map(numbers_of, module.parameters()))
        with parallel.whole():
            whole = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
            values = {name: whole[name].detach().clone() for name in Kinds(0).state_dict()}
            torch.save({"values": values, "held": held}, Path(out, f"started{processes.rank}.pt"))
        after = {name: full_tensor(tensor.detach()) for name, tensor in module.state_dict().items()}
        assert all(torch.equal(after[name], values[name]) for name in values)
        write_tensors(Path(out, "saved.safetensors"), module.state_dict(), is_main_process=processes.is_first)
    return 0


IN_FILES = ("outside.weight", "kept.weight", "stack.layers.0.weight", "one")
"""What `write_started` reads; of the others, the first process alone has the numbers."""
