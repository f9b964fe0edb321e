"""Activation checkpointing: less memory for more time. The forward pass keeps the inputs of a layer, and what happens
inside is computed again for the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from models.component_names import CheckpointedComponent, chosen_components
from models.network import Network


def enable_activation_checkpointing(model: Network, components: Iterable[CheckpointedComponent]) -> None:
    """From now on, in training, keep only the inputs of these components' layers. Gradients are the same.

    This uses the libraries' own switches. What the synchronizers attend to is an argument of the layers, which are
    recomputed with the same arguments.

    Raises:
        ValueError: an unknown component.
    """
    components = chosen_components(components, CheckpointedComponent, "for activation checkpointing")
    if "vision_encoder" in components:
        _checkpoint_layers(model.visual_tokenizer.adapter.vision_model, use_reentrant=False)
    if "language_model" in components:
        _checkpoint_layers(model.language_model.host, use_reentrant=False)
    if "unet" in components:
        model.image_decoder.unet.host.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False))


def disable_activation_checkpointing(model: Network) -> None:
    """From now on, keep everything that the gradient needs."""
    for host in (model.visual_tokenizer.adapter.vision_model, model.language_model.host):
        is_new = hasattr(host, "activation_checkpointing_disable")
        disable = host.activation_checkpointing_disable if is_new else host.gradient_checkpointing_disable
        disable()
    model.image_decoder.unet.host.disable_gradient_checkpointing()


def _checkpoint_layers(host: Any, **options: Any) -> None:
    """The switch of a model of transformers, whose name changed after 5.17."""
    is_new = hasattr(host, "activation_checkpointing_enable")
    enable = host.activation_checkpointing_enable if is_new else host.gradient_checkpointing_enable
    enable(options)
