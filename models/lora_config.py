"""What adapters of the language model are like; `models/lora.py` makes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoraConfig:
    """`W x + alpha / rank * B A x`, with A [rank, in] and B [out, rank]; B starts at 0, so that nothing changes at
    first (LoRA, arXiv:2106.09685, section 4.1).

    Raises:
        ValueError: a rank below 1, a dropout outside [0, 1), or no targets.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Share of x that the adapter does not see in training."""

    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """The matrices of each layer that get an adapter, by the last part of their names."""

    merge: bool = True
    """Whether a saved model has the adapters added to its matrices; else it has them in a file of their own."""

    def __post_init__(self) -> None:
        numbers = isinstance(self.rank, int) and all(isinstance(one, int | float) for one in (self.alpha, self.dropout))
        if not numbers or not all(isinstance(target, str) for target in self.targets):
            raise ValueError(f"{self} can't be; expected numbers for rank, alpha and dropout, and names for targets.")
        if self.rank < 1 or not 0 <= self.dropout < 1 or not self.targets:
            raise ValueError(
                f"{self} can't be; expected a rank of 1 or more, a dropout from 0 to below 1, and targets."
            )
