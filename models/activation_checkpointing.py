"""Less memory for more time: keep what goes into a layer, and compute what happens inside again for the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, get_args

from torch import nn
from torch.utils.checkpoint import checkpoint

from models.component_names import CheckpointedComponent
from models.mm_interleaved import MMInterleaved
from models.synchronizer import View, each


def recompute(model: MMInterleaved, parts: Iterable[CheckpointedComponent]) -> None:
    """From now on, in training, keep the inputs of these parts' layers alone. Gradients are the same.

    The switches are the libraries' own. What they do not know is that a layer of the language model looks at images
    through a synchronizer, which by the time of the backward looks at nothing any more; it gets the same images again.

    Raises:
        ValueError: a part of another name.
    """
    parts = set(parts)
    if unknown := sorted(parts - set(get_args(CheckpointedComponent))):
        raise ValueError(
            f"There is no component {unknown[0]!r} for activation checkpointing; expected some of "
            f"{', '.join(get_args(CheckpointedComponent))}."
        )
    if "vision" in parts:
        _checkpoint_layers(model.visual_tokenizer.adapter.vision_model, use_reentrant=False)
    if "language_model" in parts:
        contexts = partial(_now_and_again, model.language_model.synchronizers)
        _checkpoint_layers(model.language_model.host, use_reentrant=False, context_fn=contexts)
    if "unet" in parts:
        model.image_decoder.unet.host.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False))


def _checkpoint_layers(host: Any, **options: Any) -> None:
    """The switch of a model of transformers, whose name changed after 5.17."""
    is_new = hasattr(host, "activation_checkpointing_enable")
    enable = host.activation_checkpointing_enable if is_new else host.gradient_checkpointing_enable
    enable(options)


def _now_and_again(synchronizers: nn.ModuleList) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a layer when it runs, and when it runs again."""
    return nullcontext(), _looking_as_now(synchronizers)


def _looking_as_now(synchronizers: nn.ModuleList) -> AbstractContextManager[None]:
    """A context in which the synchronizers look at what they look at when this is called."""
    now = [synchronizer.view for synchronizer in each(synchronizers)]

    @contextmanager
    def looking() -> Iterator[None]:
        before = [synchronizer.view for synchronizer in each(synchronizers)]
        try:
            _set_views(synchronizers, now)
            yield
        finally:
            _set_views(synchronizers, before)

    return looking()


def _set_views(synchronizers: nn.ModuleList, views: Sequence[View | None]) -> None:
    for synchronizer, view in zip(each(synchronizers), views, strict=True):
        synchronizer.view = view
