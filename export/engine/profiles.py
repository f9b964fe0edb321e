"""Between which sizes an engine works: optimization profiles, made of the axes that a component declares.

A profile gives each dynamic axis its least, its usual and its largest length; the builder tunes for the usual one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Range = tuple[int, int, int]
"""Least, usual, largest."""


@dataclass(frozen=True)
class Limits:
    """What an engine has to be able to take."""

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

    def shapes(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Least, usual and largest shape of each input that the manifest describes."""
        return {
            port["name"]: tuple(
                tuple(size if isinstance(size, int) else self.axes[size][which] for size in port["shape"])
                for which in range(3)
            )
            for port in inputs
        }


def profiles_of(component: str, inputs: Sequence[Mapping[str, Any]], limits: Limits) -> list[Profile]:
    """The profiles of a component: two for the language model, one for everything else.

    No axis may be empty, though the graphs allow it: a cache whose rows are all invalid and a bank whose image nobody
    sees say the same, and TensorRT's promises for tensors without elements are few.

    Args:
        component: its name.
        inputs: as the manifest describes them.
        limits: what to be ready for.
    """
    names = {axis for port in inputs for axis in port["shape"] if isinstance(axis, str)}
    ranges: dict[str, Range] = {
        "batch": (1, 1, limits.max_batch),
        "tokens": (1, min(64, limits.max_tokens), limits.max_tokens),
        "past": (1, (limits.max_past + 1) // 2, limits.max_past),
        "context": (1, min(64, limits.max_past), limits.max_past),
        "images": (1, min(2, limits.max_images), limits.max_images),
    }
    if component in ("image_tokenizer", "mmfs_values_llm", "mmfs_values_unet"):
        ranges["images"] = (1, 1, limits.max_images)
    if component == "unet_mmfs":
        rows = 2 * limits.max_batch  # both halves of classifier-free guidance
        ranges["batch"] = (1, rows, rows) if limits.dynamic_unet else (rows, rows, rows)
        if not limits.dynamic_unet:
            ranges["images"] = (limits.max_images,) * 3
    unknown = sorted(names - ranges.keys())
    if unknown:
        raise ValueError(f"{component} has the axes {unknown}, for which there are no limits. Expected {list(ranges)}.")
    own = {axis: ranges[axis] for axis in sorted(names)}
    if component != "llm":
        return [Profile("all", own)]
    # With a cache of fixed size the graph holds Attention nodes: TensorRT-RTX 1.7 has kernels of half precision for
    # them, but none for a number of tokens that is always one.
    most = 1 if "past" in own else 2
    return [Profile("decode", {**own, "tokens": (1, 1, most)}), Profile("prefill", own)]
