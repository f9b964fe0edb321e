"""Which of a model's components an export holds, and how the others are computed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from export.store.manifest import Manifest


@dataclass(frozen=True)
class ComponentSelection:
    """The components that are asked for.

    Raises:
        ValueError: a component is to be exported and not to be exported.
    """

    components: tuple[str, ...] = ()
    """Empty: all but `torch_fallback`."""

    torch_fallback: tuple[str, ...] = ()
    """Components that PyTorch computes, on purpose; they get no graph and no engine."""

    earlier: tuple[str, ...] = field(default=(), compare=False)
    """Components that the command did not name, but that the export in the target has."""

    def __post_init__(self) -> None:
        if both := [name for name in self.components if name in self.torch_fallback]:
            raise ValueError(
                f"{', '.join(both)}: named in --components, which exports, and in --torch-fallback, which does not."
            )

    def among(self, known: Collection[str]) -> list[str]:
        """The components to export, in the order of those that the model has.

        Raises:
            ValueError: the model does not have one that is named, or nothing is left.
        """
        unknown = [name for name in (*self.components, *self.torch_fallback) if name not in known]
        if named := [name for name in unknown if name not in self.earlier]:
            raise ValueError(f"There is no component {', '.join(named)}. The model has {', '.join(known)}.")
        if unknown:
            raise ValueError(
                f"The export that is in --out already is of another model: it has {', '.join(unknown)}, and this model "
                f"has {', '.join(known)}. Name another --out, or remove that export."
            )
        asked = self.components or known
        chosen = [name for name in known if name in asked and name not in self.torch_fallback]
        if not chosen:
            raise ValueError("--torch-fallback names all components, and nothing is left to export.")
        return chosen

    def joined(self, manifest: Manifest) -> ComponentSelection:
        """The same, plus the components of an earlier export that it replaces."""
        there, left = manifest.components, manifest.left_to_pytorch
        components = {*there, *self.components} if self.components else set()
        fallback = {*left, *self.torch_fallback} if components else {*self.torch_fallback}
        not_named = {*components, *fallback} - {*self.components, *self.torch_fallback}
        parts = (components, fallback - {*there, *components}, not_named)
        return ComponentSelection(*(tuple(sorted(part)) for part in parts))

    def is_held_by(self, manifest: Manifest) -> bool:
        """Whether an export of the same model has all of it.

        Raises:
            ValueError: as `among`.
        """
        there, left = manifest.components, manifest.left_to_pytorch
        chosen = self.among([*there, *left, *manifest.not_exported])
        return {*chosen} <= {*there} and {*self.torch_fallback} <= {*there, *left}


@dataclass(frozen=True)
class Absent:
    """Components that an export does not hold."""

    left_to_pytorch: tuple[str, ...]
    not_exported: tuple[str, ...]


def absent(chosen: Collection[str], selection: ComponentSelection, known: Collection[str]) -> Absent:
    """Those of a model that were not chosen."""
    others = [name for name in known if name not in chosen]
    return Absent(
        tuple(name for name in others if name in selection.torch_fallback),
        tuple(name for name in others if name not in selection.torch_fallback),
    )
