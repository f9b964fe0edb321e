"""Which of a model's components an export holds, and what became of the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """What is asked for.

    Raises:
        ValueError: a component is to be exported and not to be exported.
    """

    components: tuple[str, ...] = ()
    """Empty: all but `torch_fallback`."""

    torch_fallback: tuple[str, ...] = ()
    """Components that PyTorch computes, on purpose; they get no graph and no engine."""

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
        if unknown := [name for name in (*self.components, *self.torch_fallback) if name not in known]:
            raise ValueError(f"There is no component {', '.join(unknown)}. The model has {', '.join(known)}.")
        asked = self.components or known
        chosen = [name for name in known if name in asked and name not in self.torch_fallback]
        if not chosen:
            raise ValueError("--torch-fallback names all components, and nothing is left to export.")
        return chosen

    def joined(self, manifest: Mapping[str, Any]) -> Choice:
        """The same in the place of an earlier export, whose components stay."""
        there, left = manifest["components"], manifest["left_to_pytorch"]
        components = {*there, *self.components} if self.components else set()
        left = {*left, *self.torch_fallback} if components else {*self.torch_fallback}
        return Choice(tuple(sorted(components)), tuple(sorted(left - {*there, *components})))

    def is_held_by(self, manifest: Mapping[str, Any]) -> bool:
        """Whether an export of the same model has all of it.

        Raises:
            ValueError: as `among`.
        """
        there, left = manifest["components"], manifest["left_to_pytorch"]
        chosen = self.among([*there, *left, *manifest["not_exported"]])
        return {*chosen} <= {*there} and {*self.torch_fallback} <= {*there, *left}


def absent(chosen: Collection[str], choice: Choice, known: Collection[str]) -> dict[str, list[str]]:
    """The manifest's part about components that an export does not hold."""
    others = [name for name in known if name not in chosen]
    return {
        "left_to_pytorch": [name for name in others if name in choice.torch_fallback],
        "not_exported": [name for name in others if name not in choice.torch_fallback],
    }
