"""`mmfs_values_llm` and `mmfs_values_unet`: what MMFS samples, projected once per image and read by every token or
denoising step afterwards.

Letters: N images, S pixels of all levels, S' of those that a network samples, F feature width, H heads, D channels of a
head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from export.components.check_inputs import Case, CheckInputs, first_row
from export.components.component import FLOAT, Component, Port
from export.components.image_tokenizer import num_pixels
from export.components.profiles import one_image_usually
from export.components.spec import ComponentSpec

if TYPE_CHECKING:
    from models.language_model import LanguageModel
    from models.mm_interleaved import MMInterleaved
    from models.synchronized_unet import SynchronizedUNet

    Host = LanguageModel | SynchronizedUNet
    """A network that MMFS is attached to."""


class MMFSValues(nn.Module):
    """What the synchronizers of one host network sample."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host

    def forward(self, ms_features: Tensor) -> tuple[Tensor, ...]:
        """[N, S, F] -> per synchronizer [N, S', H, D]."""
        return tuple(self.host.project_values(ms_features))


def llm_values(model: MMInterleaved) -> dict[str, Port]:
    """The bank of the language model; empty without MMFS."""
    return _values("mmfs_value", model.language_model, model)


def unet_values(model: MMInterleaved) -> dict[str, Port]:
    """The bank of the U-Net; empty without MMFS."""
    return _values("unet_mmfs_value", model.image_decoder.unet, model)


def _values(name: str, host: Host, model: MMInterleaved) -> dict[str, Port]:
    """The sizes that the host's synchronizers give a bank without images."""
    no_image = torch.zeros(0, num_pixels(model), model.visual_tokenizer.dim)
    with torch.no_grad():
        values = host.project_values(no_image)
    return {f"{name}_{j}": Port(FLOAT, ("images", *value.shape[1:]), "bank") for j, value in enumerate(values)}


def _spec(
    name: str, host: Callable[[MMInterleaved], Host], values: Callable[[MMInterleaved], dict[str, Port]]
) -> ComponentSpec:
    def of(model: MMInterleaved) -> Component | None:
        features = {"ms_features": Port(FLOAT, ("images", num_pixels(model), model.visual_tokenizer.dim))}
        outputs = values(model)
        return Component(name, MMFSValues(host(model)), inputs=features, outputs=outputs) if outputs else None

    return ComponentSpec(name, of, _cases, profiles=one_image_usually)


def _cases(_component: Component, given: CheckInputs) -> list[Case]:
    features = {"ms_features": given.outputs_of("image_tokenizer")["ms_features"]}
    return [Case("all images", features), Case("one image", first_row(features))]


LLM_SPEC = _spec("mmfs_values_llm", lambda model: model.language_model, llm_values)
UNET_SPEC = _spec("mmfs_values_unet", lambda model: model.image_decoder.unet, unet_values)
