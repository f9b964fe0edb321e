import pytest
import torch
from torch import nn

from trainer.step.ema import WeightEMA


def test_weight_average():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = WeightEMA(layer, decay=0.5)
    expected = 0.0
    for update in range(12):
        nn.init.constant_(layer.weight, float(update + 1))
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * (update + 1)
    with average.applied():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 12.0

    again = WeightEMA(nn.Linear(1, 1, bias=False), decay=0.5)
    for name, tensor in average.tensors().items():
        again.tensors()[name].copy_(tensor)
    assert again.num_updates == 12
    assert torch.equal(again.tensors()["weight"], average.tensors()["weight"])


def test_own_weights_come_back_when_saving_the_average_fails():
    layer = nn.Linear(2, 2)
    average = WeightEMA(layer, decay=0.9)
    nn.init.ones_(layer.weight)
    with pytest.raises(OSError, match="disk full"), average.applied():
        raise OSError("disk full")
    assert torch.equal(layer.weight, torch.ones(2, 2))
