import os
from pathlib import Path

import torch
from torch import nn

from models.uninitialized import uninitialized


def test_a_model_to_be_read_is_not_filled_first() -> None:
    """Large weights are zeros that were never written; what is computed is there."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(8192, 4096), nn.Linear(2, 2)
            self.register_buffer("table", torch.arange(4).float(), persistent=False)

    before = resident_bytes()
    found = uninitialized(Wide)  # one large weight: the system may back what stands before its numbers with two MiB
    assert resident_bytes() - before < 32 * 2**20  # of 128 MiB
    assert found.wide.weight.shape == (4096, 8192)
    assert found.narrow.weight.abs().sum() > 0
    assert found.table.tolist() == [0, 1, 2, 3]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
