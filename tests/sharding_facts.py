"""What each of several processes holds of a module, for tests that start them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.distributed import joined
from trainer.optim import WeightAverage
from trainer.sharding import DataParallel
from two_branches import Branches


def write_numbers_held(out: str, shard_frozen: bool) -> int:
    """Leave in held<rank>.json how many numbers of the small problem's parameters and averages this process holds: of
    each kind between steps, of the frozen layer while others may compute with it alone, and after the end."""
    with joined(torch.device("cpu")) as processes:
        module = Branches()
        parallel = DataParallel(module, processes, layers=[module.kept] if shard_frozen else ())
        average = WeightAverage(module, 0.9)
        held = {
            "trainable": sum(numbers_of(p) for p in module.parameters() if p.requires_grad),
            "frozen": sum(map(numbers_of, module.kept.parameters())),
            "average": sum(numbers_of(a) for name, a in average.tensors().items() if name != "num_updates"),
        }
        with parallel.whole():
            held["frozen, for samples"] = sum(map(numbers_of, module.kept.parameters()))
            if processes.is_first:  # nobody else takes part
                module.kept(torch.ones(2, 5))
                module.kept(torch.ones(2, 5))
        held["frozen, between steps again"] = sum(map(numbers_of, module.kept.parameters()))
        parallel.release()
        held["all in the end"] = sum(map(numbers_of, module.parameters()))
        Path(out, f"held{processes.rank}.json").write_text(json.dumps(held))
    return 0


def numbers_of(tensor: Tensor) -> int:
    """In this process."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()
