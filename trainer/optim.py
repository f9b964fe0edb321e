"""What is optimised how: parameter groups by role, the learning-rate schedule, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig

ROLES = ("decay", "no_decay", "sampling_offsets", "gate")
NO_DECAY_NAMES = ("embedding", "queries", "null_value", "negative")
"""Parameters that a module owns directly and that are looked up or added, not multiplied with."""


def role_of(name: str, parameter: Tensor, owner: nn.Module) -> str:
    """The one role of a parameter, from its dotted name and the module that owns it."""
    *path, leaf = name.split(".")
    if leaf == "gate":
        return "gate"
    if "sampling_offsets" in path:
        return "sampling_offsets"
    is_embedding = isinstance(owner, nn.Embedding) or any(part in leaf for part in NO_DECAY_NAMES)
    if parameter.ndim <= 1 or is_embedding:  # norms and biases have one dimension
        return "no_decay"
    return "decay"


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """AdamW's groups: each trainable parameter of `module` in exactly one, groups without parameters left out.

    A group carries, besides AdamW's keys, `role`, `names` and `base_lr` (the schedule multiplies the last).
    Raises ValueError if nothing is trainable.
    """
    names: dict[str, list[str]] = {role: [] for role in ROLES}
    parameters: dict[str, list[Tensor]] = {role: [] for role in ROLES}
    for name, parameter in module.named_parameters():  # a tied parameter comes once, under its first name
        if parameter.requires_grad:
            owner = module.get_submodule(name.rpartition(".")[0])
            role = role_of(name, parameter, owner)
            names[role].append(name)
            parameters[role].append(parameter)
    learning_rates = dict.fromkeys(ROLES, config.lr) | {
        "sampling_offsets": config.lr * config.sampling_offsets_lr_factor,
        "gate": config.lr * config.gate_lr_factor,
    }
    groups = [
        {
            "role": role,
            "names": names[role],
            "params": parameters[role],
            "lr": learning_rates[role],
            "base_lr": learning_rates[role],
            "weight_decay": config.weight_decay if role == "decay" else 0.0,
        }
        for role in ROLES
        if parameters[role]
    ]
    if not groups:
        raise ValueError(f"{type(module).__name__} has no parameter with requires_grad, so there is nothing to train.")
    return groups


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, one fused update a step."""
    return torch.optim.AdamW(parameter_groups(module, config), betas=config.betas, eps=config.eps, fused=True)


def describe_groups(optimizer: torch.optim.Optimizer) -> list[str]:
    """One line a group: role, how many parameters, learning rate, weight decay."""
    return [
        f"{group['role']:<16} {sum(p.numel() for p in group['params']):>12,} parameters in {len(group['params']):>4} "
        f"tensors, learning rate {group['base_lr']:.1e}, weight decay {group['weight_decay']:g}"
        for group in optimizer.param_groups
    ]


def learning_rate_factor(step: int, num_steps: int, config: OptimConfig) -> float:
    """What step `step` (from 0) multiplies the learning rates by: a linear rise, then level or half a cosine to 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate becomes `factor` times its own base."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]


class WeightAverage:
    """Exponential moving average of the trainable weights, float32; small diffusion models draw better with it.

    The decay starts low and rises to `decay`, so that the random start is forgotten: after t updates it is
    min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, average in self._average.items():
            average.lerp_(self._parameters[name].float(), weight)
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards it has its own again."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"num_updates": self.num_updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`. Raises ValueError if the parameters are not the same ones."""
        if state["average"].keys() != self._average.keys():
            differing = sorted(state["average"].keys() ^ self._average.keys())
            raise ValueError(f"The saved weight average is of another model: it differs in {differing[:5]}.")
        self.num_updates = state["num_updates"]
        for name, average in self._average.items():
            average.copy_(state["average"][name])
