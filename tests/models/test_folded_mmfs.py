"""Letters: B sequences, T tokens, N images of the bank, S pyramid pixels."""

import pytest
import torch
from torch import nn

from mmfs import MMFS
from models.folded_mmfs import FoldedMMFS

SHAPES = ((5, 3), (2, 2))
CENTRE = (0.5, 0.25)


def layer_and_norm(*, null: bool, base: int | tuple[int, int] = 16) -> tuple[MMFS, nn.RMSNorm]:
    """With weights that are all at work."""
    mmfs = MMFS(
        24, 10, spatial_shapes=SHAPES, num_heads=2, num_points=3, value_dim=16, max_age=2, null=null, base=base
    ).requires_grad_(False)
    norm = nn.RMSNorm(24, eps=1e-6).requires_grad_(False)
    for parameter in [*mmfs.parameters(), *norm.parameters()]:
        parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return mmfs, norm


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("base", [16, (3, 7)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_folded_it_computes_the_same(
    null: bool, base: int | tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    mmfs, norm = layer_and_norm(null=null, base=base)
    gate = torch.tensor([0.7])
    hidden, features = torch.randn(2, 4, 24), torch.randn(3, 19, 10)
    visible = torch.tensor([[[0, 0], [0, 1], [1, 3], [0, 3]]]).expand(2, -1, -1)
    expected = gate * mmfs(norm(hidden), torch.tensor(CENTRE), visible, features=features)
    mmfs, norm = mmfs.to(dtype), norm.to(dtype)
    folded = FoldedMMFS(mmfs, norm, CENTRE, gate.to(dtype))
    found = folded(hidden.to(dtype), mmfs.project_values(features.to(dtype)), visible)
    assert found.dtype == dtype
    assert float((found.float() - expected).norm() / expected.norm()) < tolerance
