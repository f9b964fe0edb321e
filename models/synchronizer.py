"""What every synchronizer does, wherever it is hooked in: look at the images that its host is given for one run.

Letters: N images of the bank, S pyramid pixels, F feature width, H heads, D channels a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, cast

from torch import Tensor, nn

from mmfs import MMFS
from models.config import SynchronizerConfig


def make_mmfs(
    config: SynchronizerConfig, query_dim: int, feature_dim: int, spatial_shapes: Sequence[tuple[int, int]]
) -> MMFS:
    """The layer of one synchronizer, for queries of `query_dim` channels and features of `feature_dim`."""
    return MMFS(
        query_dim,
        feature_dim,
        spatial_shapes=spatial_shapes,
        num_heads=config.num_heads,
        num_points=config.num_points,
        value_dim=config.value_dim,
        max_age=config.max_age,
        null=config.null,
        offset_init=config.offset_init,
        offset_init_cells=config.offset_init_cells,
    )


class Synchronizer(nn.Module):
    """An MMFS layer with its norms, attached by hooks to a module that is not ours and stays as it is.

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
        image_positions: Literal["age", "index"] = "age",
    ) -> None:
        super().__init__()
        self.query_norm = query_norm
        self.feature_norm = feature_norm
        self.mmfs = mmfs
        self.image_positions = image_positions
        self.values: Tensor | None = None  # [N, S, H, D], set while the host runs
        self.visible: Tensor | None = None  # ranges of the bank, one for each query or each item

    def project_values(self, features: Tensor) -> Tensor:
        """[N, S, F] -> [N, S, H, D]; once per image, whatever is asked of it afterwards."""
        return self.mmfs.project_values(self.feature_norm(features))

    @contextmanager
    def looking_at(self, values: Tensor, visible: Tensor) -> Iterator[None]:
        """Inside, the hooks add what these images say; outside, they add nothing."""
        if self.image_positions == "index":  # in the reversed bank, an image's age is its place from the first visible
            values, visible = values.flip(0), len(values) - visible.flip(-1)
        self.values, self.visible = values, visible
        try:
            yield
        finally:
            self.values = self.visible = None


def each(synchronizers: nn.ModuleList) -> Iterable[Synchronizer]:
    """The same with their type."""
    return cast(Iterable[Synchronizer], synchronizers)


@contextmanager
def all_looking_at(synchronizers: nn.ModuleList, values: Sequence[Tensor], visible: Tensor) -> Iterator[None]:
    """Each synchronizer looks at its own values of the same images.

    Raises:
        ValueError: another number of values than of synchronizers.
    """
    with ExitStack() as stack:
        for synchronizer, value in zip(each(synchronizers), values, strict=True):
            stack.enter_context(synchronizer.looking_at(value, visible))
        yield
