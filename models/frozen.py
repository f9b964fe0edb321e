"""Which pre-trained components stay as they are while the rest is trained (paper 4, B.1 and Table 11)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from models.component_names import FrozenComponent, chosen_components

if TYPE_CHECKING:
    from torch import nn

PAPER_FROZEN: tuple[FrozenComponent, ...] = ("vision_encoder", "language_model", "vae")
"""The paper trains everything else, the U-Net included."""

RELEASE_FROZEN: tuple[FrozenComponent, ...] = (*PAPER_FROZEN, "unet_null_value")
"""The release trains the language model's null slots and not the U-Net's."""

MODULE_NAMES: dict[FrozenComponent, str] = {
    "vision_encoder": "visual_tokenizer.adapter.vision_model",
    "language_model": "language_model.host",
    "vae": "image_decoder.codec.vae",
    "image_decoder": "image_decoder",
}


def known_components(components: Iterable[FrozenComponent]) -> set[FrozenComponent]:
    """The components as a set. Raises ValueError for an unknown name."""
    return chosen_components(components, FrozenComponent, "to freeze")


def freeze(model: nn.Module, components: Iterable[FrozenComponent] = PAPER_FROZEN) -> None:
    """Disable gradients of these components of an `MMInterleaved`, and leave all others as they are.

    A component that the model does not have is ignored: without latents there is no VAE, without null slots no null
    value.

    Raises:
        ValueError: an unknown component.
    """
    components = known_components(components)
    modules = tuple(f"{MODULE_NAMES[component]}." for component in components & MODULE_NAMES.keys())
    for name, parameter in model.named_parameters():
        draws = name.startswith("image_decoder.")
        is_null_value = draws and name.endswith(".mmfs.null_value")
        if (
            name.startswith(modules)
            or (is_null_value and "unet_null_value" in components)
            or (not draws and "all_but_image_decoder" in components)
        ):
            parameter.requires_grad_(False)
