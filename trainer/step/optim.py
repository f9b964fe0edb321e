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

HOSTS = {"unet": "image_decoder.unet.host.", "language_model": "language_model.host."}
"""The pre-trained networks that may learn at a rate of their own, and what the names of their parameters begin with."""

GROUPS = (*ROLES, *(f"{host}_{role}" for host in HOSTS for role in ("decay", "no_decay")))
DECAYING = ("decay", *(f"{host}_decay" for host in HOSTS))


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


def host_of(name: str) -> str | None:
    """The network of `HOSTS` that a parameter belongs to; adapters (LoRA) learn like what is new."""
    if ".lora_" in name:
        return None
    return next((host for host, prefix in HOSTS.items() if name.startswith(prefix)), None)


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """AdamW's groups: each trainable parameter of `module` in exactly one, groups without parameters left out.

    A group carries, besides AdamW's keys, `role`, `names` and `base_lr` (the schedule multiplies the last).
    Raises ValueError if nothing is trainable.
    """
    host_factors = {"unet": config.unet_lr_factor, "language_model": config.language_model_lr_factor}
    role_factors = {"sampling_offsets": config.sampling_offsets_lr_factor, "gate": config.gate_lr_factor}
    found: dict[tuple[str, float], list[tuple[str, Tensor]]] = {}
    for name, parameter in module.named_parameters():  # a tied parameter comes once, under its first name
        if not parameter.requires_grad:
            continue
        role = role_of(name, parameter, module.get_submodule(name.rpartition(".")[0]))
        factor, host = role_factors.get(role, 1.0), host_of(name)
        if host is not None and host_factors[host] != 1:
            role, factor = f"{host}_{role}", host_factors[host]
        found.setdefault((role, factor), []).append((name, parameter))
    groups = [
        {
            "role": role,
            "names": [name for name, _ in members],
            "params": [parameter for _, parameter in members],
            "lr": config.lr * factor,
            "base_lr": config.lr * factor,
            "weight_decay": config.weight_decay if role in DECAYING else 0.0,
        }
        for (role, factor), members in sorted(found.items(), key=lambda item: GROUPS.index(item[0][0]))
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
        f"{group['role']:<23} {sum(p.numel() for p in group['params']):>12,} parameters in {len(group['params']):>4} "
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

    @torch.no_grad()
    def _write(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """All state by name, for the checkpoint: what is written into these tensors is the average's."""
        return {"num_updates": self._num_updates, **self._average}
