"""Names of components that settings choose among: what can be frozen, checkpointed and compiled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args

FrozenComponent = Literal[
    "vision_encoder", "language_model", "vae", "unet_null_value", "image_decoder", "all_but_image_decoder"
]
"""The components that `models.frozen.freeze` can freeze.

"vision_encoder": the ViT, without the ViT-Adapter around it. "language_model": the host with its embeddings and its
head, without the synchronizers, the embedding of `<BoI>` and the head of the new tokens. "vae": between latents and
pixels. "unet_null_value": the value of the null slot in the synchronizers of the U-Net, zeros. "image_decoder": all of
it, for tasks that draw no images. "all_but_image_decoder": all that reads and writes, for tasks that only draw.
"""

CheckpointedComponent = Literal["vision_encoder", "language_model", "unet"]
"""The components that `models.activation_checkpointing` can checkpoint: the layers of the ViT, those of the language
model with their synchronizers, those of the U-Net without them."""

CompiledComponent = Literal["vision_encoder", "language_model", "unet"]
"""The components that `models.compiled_components` can compile: the layers of the ViT, those of the language model with
their synchronizers, the blocks of the U-Net without them."""

Component = TypeVar("Component", bound=str)


def chosen_components(components: Iterable[Component], among: Any, purpose: str) -> set[Component]:
    """Some components as a set.

    Args:
        components: their names.
        among: one of the types above.
        purpose: what they are chosen for, as the error says it: "to freeze".

    Raises:
        ValueError: an unknown component.
    """
    chosen, known = set(components), get_args(among)
    if unknown := sorted(chosen - set(known)):
        raise ValueError(f"There is no component {unknown[0]!r} {purpose}; expected some of {', '.join(known)}.")
    return chosen
