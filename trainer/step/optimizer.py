"""The optimizer: AdamW over parameter groups, each with the learning rate and weight decay of its role."""

from __future__ import annotations

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
