"""What a U-Net is conditioned on: the tokens that its cross-attention reads, and what some U-Nets take in addition.

Letters: M images to draw, n context tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """The condition of M images; every tensor has M rows."""

    tokens: Tensor
    """[M, n, cross_attention_dim], the `encoder_hidden_states` of diffusers."""

    added: Mapping[str, Tensor] = field(default_factory=dict)
    """The `added_cond_kwargs` of diffusers by name, such as `text_embeds` and `time_ids` for SDXL's U-Net; empty for a
    U-Net that reads tokens alone."""

    def named(self) -> dict[str, Tensor]:
        """Every tensor under the name that diffusers has for it, the tokens first."""
        return {"encoder_hidden_states": self.tokens, **self.added}

    def replaced_where(self, rows: Tensor, other: Condition) -> Condition:
        """The same with the rows of another condition where `rows`, [M] bool, is True."""

        def chosen(own: Tensor, others: Tensor) -> Tensor:
            return torch.where(rows.view(-1, *[1] * (own.ndim - 1)), others, own)

        added = {name: chosen(tensor, other.added[name]) for name, tensor in self.added.items()}
        return Condition(chosen(self.tokens, other.tokens), added)

    @classmethod
    def cat(cls, conditions: Sequence[Condition]) -> Condition:
        """All rows of several conditions with the same names, one after another."""
        names = conditions[0].added
        added = {name: torch.cat([condition.added[name] for condition in conditions]) for name in names}
        return cls(torch.cat([condition.tokens for condition in conditions]), added)
