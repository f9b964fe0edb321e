"""torch.compile for the layers of a model, one by one: equal layers share what was compiled for one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from models.component_names import CompiledComponent, chosen_components
from models.network import Network


def compile_components(model: Network, components: Iterable[CompiledComponent], **options: Any) -> None:
    """Have the layers of these components compiled, each when it is first called.

    Parameters, their names and the classes of modules stay. What a layer of the language model attends to comes with
    its call (`models.in_this_call`), so one graph serves all layers with MMFS and another one those without.

    Args:
        model: on any device.
        components: whose layers.
        options: for `torch.compile`, such as `backend`.

    Raises:
        ValueError: an unknown component.
    """
    for component in sorted(chosen_components(components, CompiledComponent, "to compile")):
        for layer in layers_of(model, component):
            layer.compile(**options)


def layers_of(model: Network, component: CompiledComponent) -> list[nn.Module]:
    """What is compiled of a component, piece by piece."""
    if component == "vision_encoder":
        return list(model.visual_tokenizer.adapter.encoder.layers)
    if component == "language_model":
        return list(model.language_model.decoder.layers)
    unet: Any = model.image_decoder.unet.host
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
