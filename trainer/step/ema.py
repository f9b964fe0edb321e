"""The exponential moving average (EMA) of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightEMA:
    """Exponential moving average of the trainable weights, float32; small diffusion models draw better with it.

    The decay starts low and rises to `decay`, so that the random start is forgotten: after t updates it is
    min(decay, (1 + t) / (10 + t)). Of sharded weights, each process averages its shard.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._num_updates = torch.tensor(0)
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, average in self._average.items():
            average.lerp_(self._parameters[name].float(), weight)
        self._num_updates += 1

    @property
    def num_updates(self) -> int:
        return int(self._num_updates)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards it has its own again."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(own)

    def replace_weights(self) -> None:
        """Give the module the averaged weights for good."""
        self._write(self._average)

    @torch.no_grad()
    def _write(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """All state by name, for the checkpoint: what is written into these tensors is the average's."""
        return {"num_updates": self._num_updates, **self._average}
