"""What every synchronizer does, wherever it is hooked in: attend to the images that its host is given for one run.

Letters: B items of the host's batch, T tokens, C width of the host, N images of the bank, S pyramid pixels, F feature
width, H heads, D channels a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn

from mmfs import MMFS
from models.component_configs import SynchronizerConfig
from models.folded_mmfs import FoldedMMFS

CELLS = 16
"""Cells of an image, horizontally and vertically: the unit of offsets if the host has no grid of its own."""


def make_mmfs(
    config: SynchronizerConfig, query_dim: int, feature_dim: int, spatial_shapes: Sequence[tuple[int, int]]
) -> MMFS:
    """The layer of one synchronizer, for queries of `query_dim` channels and features of `feature_dim`."""
    in_images = config.offset_unit == "image"
    return MMFS(
        query_dim,
        feature_dim,
        spatial_shapes=spatial_shapes,
        num_heads=config.num_heads,
        num_points=config.num_points,
        value_dim=config.value_dim,
        max_age=config.max_age,
        base=1 if in_images else CELLS,
        null=config.null,
        offset_init=config.offset_init,
        offset_init_cells=config.offset_init_cells / CELLS if in_images else config.offset_init_cells,
    )


@dataclass(slots=True)
class AttendedImages:
    """What a synchronizer attends to while its host runs."""

    values: Tensor
    """[N, S, H, D]."""

    visible: Tensor
    """int64, ranges of the bank: [B, T, 2], one for each token, or [B, 2], one for each image being drawn."""

    folded: FoldedMMFS | None = None
    """The folded layer, which computes instead of the layer; None: the layer itself."""

    residual: Tensor | None = None
    """[B, T, C], input of the decoder layer that runs."""


class Synchronizer(nn.Module):
    """An MMFS layer with its norms, attached by hooks to a module of another library, which does not change.

    Args:
        query_norm: of the host's states.
        feature_norm: of the image features.
        mmfs: the layer.
        image_positions: what its position embeddings count; see `SynchronizerConfig`.
    """

    def __init__(
        self,
        query_norm: nn.Module,
        feature_norm: nn.Module,
        mmfs: MMFS,
        image_positions: Literal["age", "index"],
    ) -> None:
        super().__init__()
        self.query_norm = query_norm
        self.feature_norm = feature_norm
        self.mmfs = mmfs
        self.image_positions = image_positions
        self.images: AttendedImages | None = None  # set while the host runs

    def project_values(self, features: Tensor) -> Tensor:
        """[N, S, F] -> [N, S, H, D]; once per image, however often it is sampled afterwards."""
        return self.mmfs.project_values(self.feature_norm(features))

    def set_images(self, values: Tensor, visible: Tensor, folded: FoldedMMFS | None = None) -> None:
        """From now on, the hooks attend to these images; values are [N, S, H, D] of `project_values`."""
        if self.image_positions == "index":  # in the reversed bank, an image's age is its place from the first visible
            values, visible = values.flip(0), len(values) - visible.flip(-1)
        self.images = AttendedImages(values, visible, folded)

    def clear_images(self) -> None:
        """From now on, the hooks add nothing."""
        self.images = None


def each(synchronizers: nn.ModuleList) -> Iterable[Synchronizer]:
    """The same with their type."""
    return cast(Iterable[Synchronizer], synchronizers)


@contextmanager
def attending_to(
    synchronizers: nn.ModuleList,
    values: Sequence[Tensor],
    visible: Tensor,
    folded: Sequence[FoldedMMFS] | None = None,
) -> Iterator[None]:
    """Inside, each synchronizer attends to its own values of the same images, by its layer or by that layer folded.

    Args:
        synchronizers: of one host.
        values: for each, [N, S, H, D].
        visible: [B, T, 2] or [B, 2] int64; see `AttendedImages`.
        folded: for each, its layer; None: the layers themselves.

    Raises:
        ValueError: another number of values, or of folded layers, than of synchronizers.
    """
    folds: Sequence[FoldedMMFS | None] = [None] * len(synchronizers) if folded is None else folded
    if not len(synchronizers) == len(values) == len(folds):
        raise ValueError(
            f"There are {len(synchronizers)} synchronizers, {len(values)} values and {len(folds)} folded layers; "
            "expected one each. Make the values with project_values of the same network."
        )
    try:
        for synchronizer, own, fold in zip(each(synchronizers), values, folds, strict=True):
            synchronizer.set_images(own, visible, fold)
        yield
    finally:
        for synchronizer in each(synchronizers):
            synchronizer.clear_images()
