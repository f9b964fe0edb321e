"""What every synchronizer does, wherever its host runs it: attend to the images of one call.

Letters: B items of the host's batch, T tokens, C width of the host, N images of the bank, S pyramid pixels, F feature
width, H heads, D channels a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn

from mmfs import MMFS
from mmfs.arguments import MMFSAttentionArguments
from models.component_configs import SynchronizerConfig
from models.folded_mmfs import FoldedMMFS
from models.sampling_recorder import SamplingRecorder

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


class Synchronizer(nn.Module):
    """An MMFS layer with its norms. A module of another library, its host, runs it; see `models.in_this_call`.

    Which images it attends to belongs to a call of the host, and comes with it as `BoundSynchronizer`: several threads
    may run one model.

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

    def project_values(self, features: Tensor) -> Tensor:
        """[N, S, F] -> [N, S, H, D]; once per image, however often it is sampled afterwards."""
        return self.mmfs.project_values(self.feature_norm(features))

    def bind(
        self,
        values: Tensor,
        visible: Tensor,
        folded: FoldedMMFS | None = None,
        record: Callable[[MMFSAttentionArguments], None] | None = None,
    ) -> BoundSynchronizer:
        """With the images of one call.

        Args:
            values: [N, S, H, D] of `project_values`.
            visible: int64, ranges of the bank: [B, T, 2], one for each token, or [B, 2], one for each drawn image.
            folded: this synchronizer, folded, which computes in its place; None: itself.
            record: as for `MMFS`.
        """
        if self.image_positions == "index":  # in the reversed bank, an image's age is its place from the first visible
            values, visible = values.flip(0), len(values) - visible.flip(-1)
        return BoundSynchronizer(self if folded is None else folded, values, visible, record)


@dataclass(frozen=True)
class BoundSynchronizer:
    """A synchronizer and the images that it attends to in one call of its host."""

    synchronizer: Callable[..., Tensor]
    """Takes states of the host, `values`, `visible` and `record`; see the synchronizer's `forward`."""

    values: Tensor
    """[N, S, H, D]."""

    visible: Tensor
    """int64, ranges of the bank: [B, T, 2] or [B, 2]."""

    record: Callable[[MMFSAttentionArguments], None] | None = None
    """As for `MMFS`."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """What the synchronizer returns for these states."""
        return self.synchronizer(hidden, self.values, self.visible, self.record)

    def add_to(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """`attended` plus what the synchronizer returns for `hidden + attended`."""
        if isinstance(self.synchronizer, FoldedMMFS):
            return self.synchronizer.add_to(attended, hidden, self.values, self.visible, self.record)
        return attended + self(hidden + attended)


def each(synchronizers: nn.ModuleList) -> Iterable[Synchronizer]:
    """The same with their type."""
    return cast(Iterable[Synchronizer], synchronizers)


def bind(
    synchronizers: nn.ModuleList,
    values: Sequence[Tensor],
    visible: Tensor,
    folded: Sequence[FoldedMMFS | None] | None = None,
    recorder: SamplingRecorder | None = None,
) -> tuple[BoundSynchronizer, ...]:
    """The synchronizers of one host, each with its own values of the same images.

    Args:
        synchronizers: of one host.
        values: for each, [N, S, H, D].
        visible: [B, T, 2] or [B, 2] int64; see `Synchronizer.bind`.
        folded: for each, what computes in its place, or None; None: the synchronizers themselves.
        recorder: gets what each asks of the op. None: nobody.

    Raises:
        ValueError: another number of values, or of folded layers, than of synchronizers.
    """
    folds: Sequence[FoldedMMFS | None] = [None] * len(synchronizers) if folded is None else folded
    if not len(synchronizers) == len(values) == len(folds):
        raise ValueError(
            f"There are {len(synchronizers)} synchronizers, {len(values)} values and {len(folds)} folded layers; "
            "expected one each. Make the values with project_values of the same network."
        )
    records = [None if recorder is None else recorder.of(index) for index in range(len(synchronizers))]
    parts = zip(each(synchronizers), values, folds, records, strict=True)
    return tuple(synchronizer.bind(own, visible, fold, record) for synchronizer, own, fold, record in parts)
