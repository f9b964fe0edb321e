"""How much PyTorch's own images change when each step has an error as large as a file's: a prompt may be between two
images, and then no two programs draw the same one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.store.manifest import read_manifest
from export.validate.end_to_end import compare, psnrs
from models import MMInterleaved
from models.generation.documents import Document, Segment

UNET = "unet_mmfs"
NUM_TRIES = 3

TWICE_DB = 6.0
"""A file may err twice as much as PyTorch does by rounding; as a difference of PSNRs."""


def step_error_of(directory: Path) -> float | None:
    """The error of a step of the exported U-Net, relative to the largest value of its output, as it was measured
    against PyTorch; None if the export does not hold it."""
    unet = read_manifest(directory).components.get(UNET)
    return None if unet is None else unet.validation.max_relative_error


def own_psnr_db(
    model: MMInterleaved, document: Document, asked: dict[str, Any], expected: Sequence[Segment], step_error: float
) -> float | None:
    """The worst PSNR between what PyTorch drew and what it draws with such errors in each step, in dB.

    Args:
        model: what was exported.
        document: what was continued.
        asked: options of `MMInterleaved.generate`.
        expected: what PyTorch wrote.
        step_error: of the U-Net's output, relative to its largest value; as `export.trt` measured it of the file.

    Returns:
        None if no try generated the same text.
    """
    worst: list[float] = []
    for seed in range(NUM_TRIES):
        generator = torch.Generator().manual_seed(seed)

        def off(unet: nn.Module, arguments: Any, out: Tensor, generator: torch.Generator = generator) -> Tensor:
            noise = torch.rand(out.shape, generator=generator).to(out) * 2 - 1
            return out + step_error * out.abs().amax() * noise

        hook = model.image_decoder.unet.register_forward_hook(off)
        try:
            found = model.generate(document, **asked)
        finally:
            hook.remove()
        if compare(expected, found, least_psnr_db=-1.0) is None:
            worst += psnrs(expected, found)
    return min(worst, default=None)
