"""Activation checkpointing: less memory for more time. The forward pass keeps the inputs of a layer, and what happens
inside is computed again for the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, get_args

from torch import nn
from torch.utils.checkpoint import checkpoint

from models.component_names import CheckpointedComponent
from models.network import Network
from models.synchronizer import AttendedImages, each


def enable_activation_checkpointing(model: Network, components: Iterable[CheckpointedComponent]) -> None:
    """From now on, in training, keep only the inputs of these components' layers. Gradients are the same.

    This uses the libraries' own switches. In addition, the synchronizers of the language model get their images back
    while a layer is recomputed: by the time of the backward pass they have been taken away.

    Raises:
        ValueError: an unknown component.
    """
    components = set(components)
    if unknown := sorted(components - set(get_args(CheckpointedComponent))):
        raise ValueError(
            f"There is no component {unknown[0]!r} for activation checkpointing; expected some of "
            f"{', '.join(get_args(CheckpointedComponent))}."
        )
    if "vision_encoder" in components:
        _checkpoint_layers(model.visual_tokenizer.adapter.vision_model, use_reentrant=False)
    if "language_model" in components:
        contexts = partial(_forward_and_recomputation, model.language_model.synchronizers)
        _checkpoint_layers(model.language_model.host, use_reentrant=False, context_fn=contexts)
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


def _forward_and_recomputation(
    synchronizers: nn.ModuleList,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a layer's forward pass and of its recomputation: during the recomputation, the synchronizers
    attend to the same images as when this is called."""
    saved = [synchronizer.images for synchronizer in each(synchronizers)]

    @contextmanager
    def restored() -> Iterator[None]:
        before = [synchronizer.images for synchronizer in each(synchronizers)]
        try:
            _set_images(synchronizers, saved)
            yield
        finally:
            _set_images(synchronizers, before)

    return nullcontext(), restored()


def _set_images(synchronizers: nn.ModuleList, images: Sequence[AttendedImages | None]) -> None:
    for synchronizer, own in zip(each(synchronizers), images, strict=True):
        synchronizer.images = own
