"""What tests of programs in bench/ share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def keeps_num_threads() -> Iterator[None]:
    """Programs that measure set the number of PyTorch's threads; afterwards it is what it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
