"""`image_tokenizer`: pixels to visual tokens for the language model, and to multi-scale features for MMFS.

Letters: N images, n visual tokens of an image, C language-model width, S pixels of all levels, F feature width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from export.components.check_inputs import Case, CheckInputs, first_row
from export.components.component import FLOAT, Component, Port
from export.components.profiles import one_image_usually
from export.components.spec import ComponentSpec
from mmfs import MSDeformAttn

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved


class ImageTokenizer(nn.Module):
    """Pixels to visual tokens for the language model and multi-scale features for MMFS."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.visual_tokenizer = model.visual_tokenizer

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, h, w] in [0, 1] -> [N, n, C], [N, S, F]."""
        return self.visual_tokenizer(pixel_values)


def image_tokenizer(model: MMInterleaved) -> Component:
    """The component of a model."""
    height, width = model.config.image_size
    visual_tokenizer, num_tokens = model.visual_tokenizer, model.config.visual_tokenizer.num_visual_tokens
    return Component(
        SPEC.name,
        ImageTokenizer(model),
        inputs={"pixel_values": Port(FLOAT, ("images", 3, height, width))},
        outputs={
            "visual_tokens": Port(FLOAT, ("images", num_tokens, model.language_model.hidden_size)),
            "ms_features": Port(FLOAT, ("images", num_pixels(model), visual_tokenizer.dim)),
        },
        num_deformable_attentions=sum(isinstance(module, MSDeformAttn) for module in visual_tokenizer.modules()),
        float32_in_pytorch=frozenset({"pixel_values"}),
    )


def num_pixels(model: MMInterleaved) -> int:
    """S, of the features of an image."""
    return sum(h * w for h, w in model.visual_tokenizer.spatial_shapes)


def _cases(_component: Component, given: CheckInputs) -> list[Case]:
    pixels = {"pixel_values": given.batch.pixel_values}
    return [Case(f"{len(given.batch.pixel_values)} images", pixels), Case("one image", first_row(pixels))]


SPEC = ComponentSpec(
    "image_tokenizer",
    image_tokenizer,
    _cases,
    profiles=one_image_usually,
    float32_ports=frozenset({"pixel_values"}),
)
