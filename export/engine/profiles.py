"""The optimization profiles of a component that an export describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from export.components.all import spec_of
from export.components.profiles import Limits, Profile


def profiles_of(component: str, shapes: Mapping[str, Sequence[int | str]], limits: Limits) -> list[Profile]:
    """The profiles that a component declares.

    Args:
        component: its name.
        shapes: of its inputs, with the names of dynamic axes.
        limits: the largest sizes.

    Raises:
        ValueError: there is no such component, or there are no limits for one of its axes.
    """
    axes = {axis for shape in shapes.values() for axis in shape if isinstance(axis, str)}
    try:
        return spec_of(component).profiles(axes, limits)
    except ValueError as error:
        raise ValueError(f"{component}: {error}") from error
