"""The images that a batch of documents has read, projected for MMFS: each of them once.

Letters: N images of the bank, S pyramid pixels, F feature width, H heads, D channels a head.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from copy import copy

import torch
from torch import Tensor


def first_of(owner: int, num_images: int, owners: Sequence[int]) -> list[bool]:
    """Of images in order, with the document of each: which of them stay, if one document keeps its first ones alone."""
    num_before = itertools.accumulate((one == owner for one in owners), initial=0)
    return [one != owner or number < num_images for one, number in zip(owners, num_before, strict=False)]


class ImageBank:
    """What one decoder's synchronizers sample, image by image, document by document.

    Images are projected when they are first asked for: a bank that is never read costs no projection.

    Args:
        project: features [N, S, F] to values, per synchronizer [N, S', H, D].
        nothing: empty features, [0, S, F].
    """

    def __init__(self, project: Callable[[Tensor], list[Tensor]], nothing: Tensor) -> None:
        self._project = project
        self.nothing = nothing
        self._values = project(nothing)
        self._owners: list[int] = []  # of the N projected images, ascending
        self._waiting: list[tuple[Tensor, list[int], list[int]]] = []

    def add(self, features: Tensor, owners: Sequence[int], which: Sequence[int] | None = None) -> None:
        """Append images, each behind those that its document has already.

        Args:
            features: [n, S, F]
            owners: the document of each image.
            which: the number in `features` of each image, where documents share some; None: all of them in order.
        """
        self._waiting.append((features, list(owners), list(range(len(features)) if which is None else which)))

    def values(self) -> Sequence[Tensor]:
        """Per synchronizer [N, S', H, D]; the images of a document are neighbours, in reading order."""
        if self._waiting:
            new = self._project(torch.cat([features for features, _, _ in self._waiting]))
            owners = self._all_owners
            places, before = list(range(len(self._owners))), len(self._owners)
            for features, _, which in self._waiting:
                places += [before + number for number in which]
                before += len(features)
            order = sorted(range(len(owners)), key=owners.__getitem__)  # stable: reading order stays
            picked = [places[place] for place in order]
            self._values = [torch.cat(pair)[picked] for pair in zip(self._values, new, strict=True)]
            self._owners = [owners[i] for i in order]
            self._waiting = []
        return self._values

    def range_of(self, owner: int) -> tuple[int, int]:
        """First and one past the last image of a document in `values()`."""
        self.values()
        return bisect_left(self._owners, owner), bisect_right(self._owners, owner)

    def of(self, owners: Collection[int]) -> ImageBank:
        """A bank with the images of these documents alone; what is added to it is not added to this one."""
        other = copy(self)
        other._keep([owner in owners for owner in self._all_owners])
        return other

    def crop(self, owner: int, num_images: int) -> None:
        """Keep the first images of a document alone."""
        self._keep(first_of(owner, num_images, self._all_owners))

    @property
    def _all_owners(self) -> list[int]:
        """The document of each image: of the projected ones, and then of those that wait."""
        return self._owners + [owner for _, waiting, _ in self._waiting for owner in waiting]

    def _keep(self, stays: Sequence[bool]) -> None:
        """Forget the images that do not stay; in the order of `_all_owners`."""
        stay = iter(stays)
        places = [place for place in range(len(self._owners)) if next(stay)]
        if len(places) < len(self._owners):
            self._values = [values[places] for values in self._values]
            self._owners = [self._owners[place] for place in places]
        self._waiting, before = [], self._waiting
        for features, waiting, which in before:
            kept = [(owner, number) for owner, number in zip(waiting, which, strict=True) if next(stay)]
            used = sorted({number for _, number in kept})
            if used:
                chosen = features if len(used) == len(features) else features[used]
                numbers = [used.index(number) for _, number in kept]
                self._waiting.append((chosen, [owner for owner, _ in kept], numbers))

    def join(self, other: ImageBank, shift: int) -> None:
        """Append the images of another bank, whose documents are numbered from 0; here they begin at `shift`, which is
        above the numbers of the documents here."""
        if other._owners:
            self._values = [torch.cat(pair) for pair in zip(self._values, other._values, strict=True)]
            self._owners = self._owners + [owner + shift for owner in other._owners]
        for features, waiting, which in other._waiting:
            self._waiting.append((features, [owner + shift for owner in waiting], which))

    @property
    def num_bytes(self) -> int:
        """Of the values, and of the features that wait for being projected."""
        return sum(tensor.nbytes for tensor in (*self._values, *(features for features, _, _ in self._waiting)))
