"""What MMFS samples of the images of a batch of documents: every image is projected once, into a slot.

Letters: N slots, S pixels of all levels of an image, F feature width, H heads, D channels a head.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors
from models.generation.image_bank import first_of


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
        self._most = num_slots
        self._banks: Tensors = {
            name: torch.zeros((0, *_sizes(port)), dtype=port.dtype, device=device) for name, port in ports.items()
        }
        self._num_slots = self.num_moves = 0
        self._reserve(self._least)
        self.num_moves = 0
        self._owners: list[int] = []  # of the slots in use, ascending
        self._waiting: list[tuple[Tensor, list[int]]] = []

    @property
    def banks(self) -> Tensors:
        """Every bank [N, S, H, D], by the name of the network's input."""
        self._reserve(self._least)
        return self._banks

    @property
    def _least(self) -> int:
        """Slots of a pool in use; those of a copy are made when it is used."""
        return 1 if self._most is None else self._most

    @property
    def num_images(self) -> int:
        """Of all documents."""
        return len(self._all_owners)

    @property
    def _all_owners(self) -> list[int]:
        """The document of each image: of those in slots, and then of those that wait."""
        return self._owners + [owner for _, waiting in self._waiting for owner in waiting]

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
        owners = self._all_owners
        self._waiting = []
        num_before, num_now = len(self._owners), len(owners)
        self._reserve(num_now)
        new = {} if self._project is None else self._project(ms_features=features)
        order = sorted(range(num_now), key=owners.__getitem__)  # stable: reading order stays
        stays = order == list(range(num_now))
        for name, bank in self._banks.items():
            bank[num_before:num_now] = new[name]
            if not stays:
                bank[:num_now] = bank[torch.tensor(order, device=bank.device)]
        self._owners = [owners[place] for place in order]

    def of(self, owners: Collection[int]) -> ValuePool:
        """A pool with a copy of the images of these documents alone, and no slots beside them until it is used."""
        other = copy(self)
        slots, other._waiting = self._chosen([owner in owners for owner in self._all_owners])
        other._owners = [self._owners[slot] for slot in slots]
        other._banks = {name: bank[slots] for name, bank in self._banks.items()}
        other._num_slots = len(slots)
        return other

    def keep(self, owners: Collection[int]) -> None:
        """Forget the images of all other documents."""
        self._keep([owner in owners for owner in self._all_owners])

    def crop(self, owner: int, num_images: int) -> None:
        """Keep the first images of a document alone."""
        self._keep(first_of(owner, num_images, self._all_owners))

    def _keep(self, stays: Sequence[bool]) -> None:
        """Forget the images that do not stay; in the order of `_all_owners`."""
        slots, self._waiting = self._chosen(stays)
        if len(slots) < len(self._owners):
            for bank in self._banks.values():
                bank[: len(slots)] = bank[slots]
            self._owners = [self._owners[slot] for slot in slots]

    def _chosen(self, stays: Sequence[bool]) -> tuple[list[int], list[tuple[Tensor, list[int]]]]:
        """Slots of the images that stay, and those of them that wait; in the order of `_all_owners`."""
        stay = iter(stays)
        slots = [slot for slot in range(len(self._owners)) if next(stay)]
        waiting = []
        for features, owners in self._waiting:
            if places := [place for place in range(len(owners)) if next(stay)]:
                part = features if len(places) == len(owners) else features[places]
                waiting.append((part, [owners[place] for place in places]))
        return slots, waiting

    def can_join(self, other: ValuePool) -> bool:
        """Whether there are slots for the images of both."""
        return self._most is None or self.num_images + other.num_images <= self._most

    def join(self, other: ValuePool, shift: int) -> None:
        """Append the images of another pool of the same network, whose documents are numbered from 0; here they begin
        at `shift`, which is above the numbers of the documents here.

        Raises:
            PoolFull: there are too few slots, and the banks cannot grow.
        """
        self._settle()
        num_before, num_joining = len(self._owners), len(other._owners)
        self._reserve(num_before + num_joining)
        for name, bank in self._banks.items():
            bank[num_before : num_before + num_joining] = other._banks[name][:num_joining]
        self._owners = self._owners + [owner + shift for owner in other._owners]
        self._waiting = [(features, [owner + shift for owner in waiting]) for features, waiting in other._waiting]

    @property
    def num_bytes(self) -> int:
        """Of the banks, and of the features that wait for being projected."""
        return sum(one.nbytes for one in (*self._banks.values(), *(features for features, _ in self._waiting)))

    def _reserve(self, num_images: int) -> None:
        """Have slots for so many, in larger banks if need be.

        Raises:
            PoolFull: there are too few slots, and the banks cannot grow.
        """
        if num_images <= self._num_slots:
            return
        if self._most is not None and num_images > self._most:
            raise PoolFull(
                f"The documents hold {num_images} images; the engines were built for {self._most}. Give them "
                "fewer at once, lower max_new_images, or build engines with a larger --max-images."
            )
        num_slots = self._most or max(self._num_slots, 1)
        while num_slots < num_images:
            num_slots *= 2
        for name, bank in self._banks.items():
            larger = bank.new_zeros(num_slots, *bank.shape[1:])
            larger[: len(bank)] = bank
            self._banks[name] = larger
        self._num_slots = num_slots
        self.num_moves += 1


def _sizes(port: Port) -> list[int]:
    """Of one slot."""
    return [size for size in port.shape[1:] if isinstance(size, int)]
