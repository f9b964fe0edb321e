"""What MMFS samples of the images of a batch of documents: every image is projected once, into a slot.

Letters: N slots, S pixels of all levels of an image, F feature width, H heads, D channels a head.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors


class PoolFull(ValueError):
    """More images than an engine was built for."""


class ValuePool:
    """Banks for all synchronizers of one network; a token or image sees a range of slots.

    Images are projected when they are first needed. The slots of a document are neighbours, in reading order. Slot
    numbers are data for a recorded CUDA graph, so a change of slots needs no new recording.

    Args:
        project: the component that computes the values; None for a network without MMFS.
        ports: the banks, as inputs of that network.
        device: where they are.
        num_slots: N. None: as many as there are images, by moving to larger banks, which `num_moves` counts.
    """

    def __init__(
        self, project: ComponentRunner | None, ports: Mapping[str, Port], device: torch.device, num_slots: int | None
    ) -> None:
        self._project = project
        self.can_grow = num_slots is None
        self.num_slots = 1 if num_slots is None else num_slots
        self.banks: Tensors = {
            name: torch.zeros((self.num_slots, *_sizes(port)), dtype=port.dtype, device=device)
            for name, port in ports.items()
        }
        self.num_moves = 0
        self._owners: list[int] = []  # of the slots in use, ascending
        self._waiting: list[tuple[Tensor, list[int]]] = []

    def clear(self) -> None:
        """No images."""
        self._owners, self._waiting = [], []

    def add(self, features: Tensor, owners: Sequence[int]) -> None:
        """Append images [n, S, F], each behind those that its document has already."""
        self._waiting.append((features, list(owners)))

    def range_of(self, owner: int) -> tuple[int, int]:
        """First and one past the last slot of a document."""
        self._settle()
        return bisect_left(self._owners, owner), bisect_right(self._owners, owner)

    def _settle(self) -> None:
        """Project waiting images into their slots.

        Raises:
            PoolFull: there are too few slots, and the banks cannot grow.
        """
        if not self._waiting:
            return
        features = torch.cat([waiting for waiting, _ in self._waiting])
        owners = self._owners + [owner for _, added in self._waiting for owner in added]
        self._waiting = []
        num_before, num_now = len(self._owners), len(owners)
        if num_now > self.num_slots:
            self._grow(num_now)
        new = {} if self._project is None else self._project(ms_features=features)
        order = sorted(range(num_now), key=owners.__getitem__)  # stable: reading order stays
        stays = order == list(range(num_now))
        for name, bank in self.banks.items():
            bank[num_before:num_now] = new[name]
            if not stays:
                bank[:num_now] = bank[torch.tensor(order, device=bank.device)]
        self._owners = [owners[place] for place in order]

    def _grow(self, num_images: int) -> None:
        if not self.can_grow:
            raise PoolFull(
                f"The documents hold {num_images} images; the engines were built for {self.num_slots}. Give them "
                "fewer at once, lower max_new_images, or build engines with a larger --max-images."
            )
        while self.num_slots < num_images:
            self.num_slots *= 2
        for name, bank in self.banks.items():
            larger = bank.new_zeros(self.num_slots, *bank.shape[1:])
            larger[: len(bank)] = bank
            self.banks[name] = larger
        self.num_moves += 1


def _sizes(port: Port) -> list[int]:
    """Of one slot."""
    return [size for size in port.shape[1:] if isinstance(size, int)]
