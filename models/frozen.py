"""Which pre-trained parts stay as they are while the rest is trained (paper 4, B.1 and Table 11)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from models.component_names import FrozenComponent

if TYPE_CHECKING:
    from torch import nn

PAPER_FROZEN: tuple[FrozenComponent, ...] = ("vision", "language_model", "vae")
"""The paper trains everything else, the U-Net included."""

RELEASE_FROZEN: tuple[FrozenComponent, ...] = (*PAPER_FROZEN, "drawing_null")
"""The release trains the language model's null slots and not the U-Net's."""

PLACES: dict[FrozenComponent, str] = {
    "vision": "visual_tokenizer.adapter.vision_model",
    "language_model": "language_model.host",
    "vae": "image_decoder.codec.vae",
    "image_decoder": "image_decoder",
}


def known_components(parts: Iterable[FrozenComponent]) -> set[FrozenComponent]:
    """The parts as a set. Raises ValueError for a name that no part has."""
    parts = set(parts)
    if unknown := sorted(parts - set(get_args(FrozenComponent))):
        raise ValueError(
            f"There is no part {unknown[0]!r} to freeze; expected some of {', '.join(get_args(FrozenComponent))}."
        )
    return parts


def freeze(model: nn.Module, parts: Iterable[FrozenComponent] = PAPER_FROZEN) -> None:
    """Take gradients away from these parts of an `MMInterleaved`, and leave all others as they are.

    A model that draws pixels has no VAE and a model without null slots no null: there, nothing is left to freeze.

    Raises:
        ValueError: a part of another name.
    """
    parts = known_components(parts)
    for name, parameter in model.named_parameters():
        if any(name.startswith(f"{PLACES[part]}.") for part in parts & PLACES.keys()) or (
            "drawing_null" in parts and name.startswith("image_decoder.") and name.endswith(".mmfs.null_value")
        ):
            parameter.requires_grad_(False)
