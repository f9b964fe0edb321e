"""Where one query of each layer of a network sampled the images of a document.

Letters: M images of the document that a query sees, H heads, L levels, P points, h x w pixels of a heat map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from models.generation.heat_map import heat_map, overlay


@dataclass(frozen=True, eq=False)
class QueryLocations:
    """Where queries sampled the images before them, and with how much attention.

    A layer's weighted samples of its values, plus its null weight times its null value, are what its op returned. As in
    Deformable DETR (arXiv:2010.04159, Eq. 3), a sample is bilinear and zero outside of the image.

    Of several queries (the tokens of a word) these are the means of their weights at each of their points: P is then as
    many times larger.
    """

    layers: tuple[str, ...]
    """Their names, in the order of the network."""

    images: tuple[int, ...]
    """The numbers in the document of the M images that are seen, in reading order."""

    sampling_locations: tuple[Tensor, ...]
    """For each layer, [M, H, L, P, 2] float32: (x, y), 0 and 1 are the edges of the image."""

    attention_weights: tuple[Tensor, ...]
    """For each layer, [M, H, L, P] float32."""

    null_weights: tuple[Tensor, ...]
    """For each layer, [H] float32: the share that goes to no image; with the weights it sums to 1 for each head."""

    pictures: Sequence[Image.Image] = field(default=(), repr=False)
    """All images of the document, cut to what the model sees of them."""

    def share(
        self, image: int, *, layer: int | None = None, head: int | None = None, level: int | None = None
    ) -> float:
        """How much of the attention goes to an image of the document, 0 to 1; of all layers and heads, or of one."""
        _, weights = self._points(image, layer, head, level)
        return float(weights.sum())

    def heat_map(
        self,
        image: int,
        size: tuple[int, int],
        *,
        layer: int | None = None,
        head: int | None = None,
        level: int | None = None,
    ) -> Tensor:
        """The attention to each place of an image.

        Args:
            image: its number in the document.
            size: (h, w) of the map.
            layer, head, level: one of them; None: all.

        Returns:
            [h, w] float32, whose sum is the share of the attention that goes to places inside of the image.

        Raises:
            ValueError: there is no such image, layer, head or level.
        """
        return heat_map(*self._points(image, layer, head, level), size)

    def overlay(
        self, image: int, *, layer: int | None = None, head: int | None = None, level: int | None = None
    ) -> Image.Image:
        """The image in grey, in colour where the attention goes, and a dot at each sampling location, whose area is its
        weight; small images are enlarged. Arguments as for `heat_map`."""
        return overlay(self.pictures[image], *self._points(image, layer, head, level))

    def _points(self, image: int, layer: int | None, head: int | None, level: int | None) -> tuple[Tensor, Tensor]:
        """Locations [n, 2] in an image, and their shares of all attention [n]; of an image that is not seen, none."""
        if not 0 <= image < len(self.pictures):
            raise ValueError(f"image is {image}; the document has {len(self.pictures)}, counted from 0.")
        chosen = _one_of("layer", layer, len(self.layers))
        nothing = torch.zeros(0, dtype=torch.float32, device="cpu")  # of a network without layers
        found, shares = [nothing.view(0, 2)], [nothing]
        for number in chosen:
            locations, weights = self.sampling_locations[number], self.attention_weights[number]
            heads = _one_of("head", head, weights.shape[1])
            levels = _one_of("level", level, weights.shape[2])
            rows = [self.images.index(image)] if image in self.images else []
            found.append(locations[rows][:, heads][:, :, levels].flatten(0, -2))
            shares.append(weights[rows][:, heads][:, :, levels].flatten() / (len(chosen) * len(heads)))
        return torch.cat(found), torch.cat(shares)

    @classmethod
    def mean(cls, several: Sequence[QueryLocations]) -> QueryLocations:
        """Of several queries of the same layers, which see the same images.

        Raises:
            ValueError: there is none, or they see different images.
        """
        if not several:
            raise ValueError("There are no queries; expected at least one.")
        first = several[0]
        if any(one.images != first.images for one in several):
            raise ValueError(
                f"The queries see the images {[one.images for one in several]}; expected the same, to take the mean."
            )
        return cls(
            first.layers,
            first.images,
            tuple(torch.cat(each, dim=-2) for each in zip(*(one.sampling_locations for one in several), strict=True)),
            tuple(
                torch.cat(each, dim=-1) / len(several)
                for each in zip(*(one.attention_weights for one in several), strict=True)
            ),
            tuple(torch.stack(each).mean(0) for each in zip(*(one.null_weights for one in several), strict=True)),
            first.pictures,
        )


def _one_of(name: str, number: int | None, count: int) -> list[int]:
    """The numbers that are meant."""
    if number is None:
        return list(range(count))
    if not 0 <= number < count:
        raise ValueError(f"{name} is {number}; there are {count}, counted from 0.")
    return [number]
