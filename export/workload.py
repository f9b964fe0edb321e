"""What `python -m export.bench` measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What is measured."""

    num_prompt_tokens: int = 256
    num_new_tokens: int = 32
    num_inference_steps: int = 30
    guidance_scale: float = 3.5
    rounds: int = 5

    def __post_init__(self) -> None:
        for name in ("num_prompt_tokens", "num_new_tokens", "num_inference_steps", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected at least 1.")
