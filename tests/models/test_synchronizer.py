"""Letters: N images, S pyramid pixels, H heads, D channels a head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.component_configs import SynchronizerConfig
from models.synchronizer import Synchronizer, bind, make_mmfs


def small() -> Synchronizer:
    config = SynchronizerConfig(num_heads=2, num_points=2, value_dim=8, max_age=2)
    return Synchronizer(nn.Identity(), nn.Identity(), make_mmfs(config, 6, 4, [(2, 3)]), "age")


def test_each_is_bound_to_its_own_values_and_keeps_none_of_them() -> None:
    synchronizers, visible = nn.ModuleList([small(), small()]), torch.tensor([[0, 1]])
    before = [set(vars(one)) for one in synchronizers]
    values = [torch.rand(1, 6, 2, 4), torch.rand(1, 6, 2, 4)]  # [N, S, H, D]
    bound = bind(synchronizers, values, visible)
    assert [one.synchronizer for one in bound] == list(synchronizers)
    assert all(one.values is own for one, own in zip(bound, values, strict=True))
    assert [set(vars(one)) for one in synchronizers] == before


def test_values_of_another_network_are_refused() -> None:
    synchronizers, values = nn.ModuleList([small(), small()]), [torch.rand(1, 6, 2, 4)]
    with pytest.raises(ValueError, match=r"2 synchronizers, 1 values and 2 folded layers; expected one each"):
        bind(synchronizers, values, torch.tensor([[0, 1]]))
