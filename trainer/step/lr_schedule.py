"""The learning-rate schedule: linear warm-up, then constant or half a cosine to 0."""

from __future__ import annotations

import math

import torch

from trainer.config import OptimConfig


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
