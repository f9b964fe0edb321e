"""The types that converted weights can have."""

from __future__ import annotations

from typing import Literal

DType = Literal["source", "bfloat16", "float32"]
"""Of the converted weights; "source": each tensor as the checkpoint has it."""
