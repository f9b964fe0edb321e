"""Between which sizes an engine works: optimization profiles, made of the axes that a component declares.

A profile gives each dynamic axis its least, its usual and its largest length; the builder tunes for the usual one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

Range = tuple[int, int, int]
"""Least, usual, largest."""


@dataclass(frozen=True)
class Limits:
    """The sizes that an engine has to accept."""

    max_batch: int = 1
    """Sequences, and images drawn, at once."""

    max_tokens: int = 512
    """New tokens of one call; a longer prompt is read in chunks."""

    max_past: int = 2048
    """Rows of the key-value cache, and tokens that a drawn image is conditioned on."""

    max_images: int = 8
    """Images in the bank."""

    dynamic_unet: bool = False
    """False: the U-Net takes exactly both halves of `max_batch` images and a bank of `max_images`."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_tokens", "max_past", "max_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected at least 1.")


@dataclass(frozen=True)
class Profile:
    """One profile, with its axes by name."""

    name: str
    axes: dict[str, Range]

    def shapes(self, inputs: Mapping[str, Collection[int | str]]) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Least, usual and largest shape of each input, whose shapes are given with the names of dynamic axes."""
        return {
            name: tuple(
                tuple(size if isinstance(size, int) else self.axes[size][which] for size in shape) for which in range(3)
            )
            for name, shape in inputs.items()
        }


ProfilesOf = Callable[[Collection[str], Limits], list[Profile]]
"""Makes the profiles of a component from the names of its dynamic axes."""


def usual_ranges(limits: Limits) -> dict[str, Range]:
    """The range of an axis of this name, unless a component has another.

    No axis may be empty, though the graphs allow it: TensorRT promises little for tensors without elements. A cache
    whose rows are all invalid, or a bank whose image nobody sees, has the same effect.
    """
    return {
        "batch": (1, 1, limits.max_batch),
        "tokens": (1, min(64, limits.max_tokens), limits.max_tokens),
        "past": (1, (limits.max_past + 1) // 2, limits.max_past),
        "context": (1, min(64, limits.max_past), limits.max_past),
        "images": (1, min(2, limits.max_images), limits.max_images),
    }


def one_profile(axes: Collection[str], limits: Limits) -> list[Profile]:
    """One profile over the usual ranges."""
    return [Profile("all", ranges_of(axes, usual_ranges(limits)))]


def one_image_usually(axes: Collection[str], limits: Limits) -> list[Profile]:
    """One profile, for components that mostly read one image at a time."""
    return [Profile("all", ranges_of(axes, usual_ranges(limits) | {"images": (1, 1, limits.max_images)}))]


def ranges_of(axes: Collection[str], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges of these axes, by name.

    Raises:
        ValueError: there are no limits for one.
    """
    if unknown := sorted(set(axes) - ranges.keys()):
        raise ValueError(f"There are no limits for the axes {unknown}. Expected some of {list(ranges)}.")
    return {axis: ranges[axis] for axis in sorted(axes)}
