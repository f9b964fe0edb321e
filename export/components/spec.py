"""What is known of a component before there is a model: the object that its file declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.components.check_inputs import CasesOf
from export.components.component import Component
from export.components.profiles import ProfilesOf, one_profile

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved


@dataclass(frozen=True)
class ComponentSpec:
    """A component's declaration."""

    name: str
    of: Callable[[MMInterleaved], Component | None]
    """The component of a model; None: the model has none."""

    cases: CasesOf
    """The inputs that it is checked with."""

    profiles: ProfilesOf = one_profile
    """Between which sizes its engine works."""

    float32_ports: frozenset[str] = frozenset()
    """Inputs and outputs that stay float32 in half precision, because the runtime itself computes with them."""

    takes_float16: bool = True
    """False: it overflows float16, and stays float32 where float16 is asked for."""

    takes_eight_bit_weights: bool = False
    """Whether `--llm-weights` is for it."""
