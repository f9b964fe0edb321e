"""The interface of a vision encoder.

Letters: N images, h x w pixels, E prefix tokens, G patches (rows times columns), C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from models.foreign_settings import without_programs

Statistics = tuple[float, float, float]
"""One number for each of red, green and blue."""

IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)


class VisionEncoder(ABC):
    """A plain ViT of transformers: square patches of one size, and layers that all work on the same sequence of prefix
    tokens (class token, registers) and patches.

    This is a view of the module, which keeps its own code and the names of its weights; the `ViTAdapter` owns the
    module. Between the layers the adapter changes the patches, so the encoder is asked for its steps one by one:
    `embed`, each of `layers` by `run_layer`, `last_hidden_state`. Without the adapter's changes, the result is the
    `last_hidden_state` of the module's own forward pass.

    Args:
        model: an instance of `MODEL`.

    Raises:
        ValueError: patches or images that are not square, or pixels that are not RGB.
    """

    MODEL: ClassVar[Any]
    """The class of transformers."""

    CONFIG: ClassVar[Any]
    """Its configuration class."""

    IMAGE_MEAN: ClassVar[Statistics]
    IMAGE_STD: ClassVar[Statistics]
    """Of pixels in [0, 1], what the family was trained with: for snapshots that do not say it themselves."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        for name in ("image_size", "patch_size"):
            if not isinstance(getattr(config, name), int):
                raise ValueError(
                    f"The vision encoder has {name} {getattr(config, name)}; expected the side of a square in pixels."
                )
        if config.num_channels != 3:
            raise ValueError(f"The vision encoder reads {config.num_channels} channels; expected 3: red, green, blue.")

    @classmethod
    def new(cls, settings: dict[str, Any]) -> VisionEncoder:
        """One with random weights, from arguments of `CONFIG`."""
        return cls(cls.MODEL(cls.CONFIG(**without_programs(settings), attn_implementation="sdpa")))

    @property
    def hidden_size(self) -> int:
        """C."""
        return self.model.config.hidden_size

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.model.config.patch_size

    @property
    def image_side(self) -> int:
        """Side of the square images that the position table was trained with, pixels."""
        return self.model.config.image_size

    @property
    @abstractmethod
    def num_prefix_tokens(self) -> int:
        """E, how many tokens come before the patches."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The transformer layers, first to last."""

    @abstractmethod
    def embed(self, pixel_values: Tensor) -> Tensor:
        """What goes into the first layer.

        Args:
            pixel_values: [N, 3, h, w], normalised; h and w are multiples of the patch size.

        Returns:
            [N, E + G, C], positions added; the position table is interpolated where h or w is not `image_side`.
        """

    def run_layer(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One of `layers`: [N, E + G, C] -> [N, E + G, C]."""
        return layer(hidden, None)

    @abstractmethod
    def last_hidden_state(self, hidden: Tensor) -> Tensor:
        """After the last layer: [N, E + G, C] -> [N, E + G, C]."""

    @abstractmethod
    def unused(self) -> Sequence[nn.Module | nn.Parameter]:
        """Weights that `last_hidden_state` does not depend on: of the pooled output, or of pre-training."""

    @abstractmethod
    def drop_pooling_head(self) -> None:
        """Remove what only the pooled output needs."""
