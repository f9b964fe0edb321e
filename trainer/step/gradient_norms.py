"""Norms of the gradients of a module's parts, to see which of them a large norm comes from."""

from __future__ import annotations

from torch import Tensor, nn

from models.sharded_tensors import full_tensor


def gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    """The norm of the gradients of each part that has any, by its name: `visual_tokenizer.resampler`, and each layer of
    a stack on its own, `language_model.decoder.layers.3`.

    All processes have to call it; all get the norms over all of them. No norm waits for a GPU here.
    """
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(part_of(name), []).append(parameter.grad)
    return {part: full_tensor(nn.utils.get_total_norm(tensors)) for part, tensors in gradients.items()}


def part_of(name: str) -> str:
    """The part that a parameter belongs to: the first number in its name ends it, or else the second name."""
    *modules, _ = names = name.split(".")
    numbers = [place for place, word in enumerate(modules) if word.isdigit()]
    return ".".join(modules[: numbers[0] + 1 if numbers else 2]) or names[0]
