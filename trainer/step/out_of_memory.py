"""What to do when the memory of a device is used up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.config import TrainConfig
from trainer.errors import OutOfMemoryError


@contextmanager
def out_of_memory_explained(advice: str) -> Iterator[None]:
    """Turn PyTorch's error, of a GPU or of the CPU, into a sentence with advice. Raises OutOfMemoryError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise OutOfMemoryError(f"The memory is used up: {reason} {advice}") from error


def memory_saving_options(config: TrainConfig) -> str:
    """Settings that need less memory and teach the same, the cheapest in time first."""
    images = f"{config.memory.image_chunk // 2}" if config.memory.image_chunk > 1 else "1"
    rows = f"{config.memory.micro_batch_rows // 2}" if config.memory.micro_batch_rows > 1 else "1"
    return (
        f"Try, the cheapest in time first: --memory.image_chunk {images} (drawn images whose U-Net activations are in "
        f"memory; costs nothing), --memory.micro_batch_rows {rows} (rows computed at a time; a little slower), "
        "--memory.activation_checkpointing '[language_model, vision_encoder, unet]' (stores only the inputs of "
        "layers; a third more computation). "
        "The result of all three is the same."
    )


FEWER_STATES = (
    "It was the optimizer's update, whose state takes 8 bytes a trained parameter (--estimate has the figures). Try "
    "more GPUs with --parallel.shard_size 0 (all share one state), or train less: --lora.rank 16, or "
    "--frozen '[language_model]'."
)
"""Advice where the first update needs more memory than forward and backward did."""
