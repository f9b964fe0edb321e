"""Letters: N images, S pyramid pixels, H heads, D channels a head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.component_configs import SynchronizerConfig
from models.synchronizer import Synchronizer, attending_to, make_mmfs


def small() -> Synchronizer:
    config = SynchronizerConfig(num_heads=2, num_points=2, value_dim=8, max_age=2)
    return Synchronizer(nn.Identity(), nn.Identity(), make_mmfs(config, 6, 4, [(2, 3)]), "age")


def test_each_attends_to_its_own_values_until_the_host_has_run() -> None:
    synchronizers, visible = nn.ModuleList([small(), small()]), torch.tensor([[0, 1]])
    values = [torch.rand(1, 6, 2, 4), torch.rand(1, 6, 2, 4)]  # [N, S, H, D]
    with attending_to(synchronizers, values, visible):
        assert all(torch.equal(one.images.values, own) for one, own in zip(synchronizers, values, strict=True))
    assert [one.images for one in synchronizers] == [None, None]
    with pytest.raises(RuntimeError, match="of the host"), attending_to(synchronizers, values, visible):
        raise RuntimeError("of the host")
    assert [one.images for one in synchronizers] == [None, None]


def test_values_of_another_network_are_refused() -> None:
    synchronizers, values = nn.ModuleList([small(), small()]), [torch.rand(1, 6, 2, 4)]
    looking = attending_to(synchronizers, values, torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match=r"2 synchronizers, 1 values and 2 folded layers; expected one each"), looking:
        pass
