from collections import Counter

import pytest
import torch
from torch import nn

from models import MMInterleaved
from trainer.config import OptimConfig
from trainer.recipes import tiny
from trainer.step.lr_schedule import set_learning_rate
from trainer.step.optimizer import describe_groups, make_optimizer, parameter_groups


class Sampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.sampling_offsets = nn.Linear(4, 2)
        self.gate_proj = nn.Linear(4, 4, bias=False)  # a LLaMA's, not a synchronizer's
        self.age_embedding = nn.Parameter(torch.zeros(3, 4))


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv2d(3, 4, 2)
        self.sampler = Sampler()
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.tokens.weight  # tied
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.sampler.gate_proj(x)))


def test_roles():
    groups = {group["role"]: group for group in parameter_groups(Host(), OptimConfig(lr=1.0, gate_lr_factor=3.0))}
    assert {role: group["names"] for role, group in groups.items()} == {
        "decay": ["conv.weight", "sampler.gate_proj.weight"],
        "no_decay": ["tokens.weight", "norm.weight", "norm.bias", "conv.bias", "sampler.age_embedding"],
        "sampling_offsets": ["sampler.sampling_offsets.weight", "sampler.sampling_offsets.bias"],
        "gate": ["sampler.gate"],
    }
    assert {role: group["weight_decay"] for role, group in groups.items()} == {
        "decay": 0.05,
        "no_decay": 0.0,
        "sampling_offsets": 0.0,
        "gate": 0.0,
    }
    assert {role: group["base_lr"] for role, group in groups.items()} == {
        "decay": 1.0,
        "no_decay": 1.0,
        "sampling_offsets": 0.1,
        "gate": 3.0,
    }


def test_each_parameter_of_the_model_is_in_exactly_one_group():
    model = MMInterleaved(tiny().model)
    model.language_model.requires_grad_(False)
    model.language_model.synchronizers.requires_grad_(True)
    optimizer = make_optimizer(model, OptimConfig())
    counts = Counter(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
    assert counts == {id(parameter): 1 for parameter in model.parameters() if parameter.requires_grad}
    names = {group["role"]: group["names"] for group in optimizer.param_groups}
    assert len(names["gate"]) == len(model.language_model.synchronizers) > 0
    assert all("sampling_offsets" in name for name in names["sampling_offsets"])
    assert not [name for name in names["decay"] if "norm" in name or "embed_tokens" in name or "bias" in name]
    assert len(describe_groups(optimizer)) == len(optimizer.param_groups)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no parameter with requires_grad"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), OptimConfig())


def test_weight_decay_reaches_matrices_only():
    host = Host()
    before = {name: parameter.detach().clone() for name, parameter in host.named_parameters()}
    optimizer = make_optimizer(host, OptimConfig(lr=0.1, weight_decay=0.5))
    for parameter in host.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {name for name, parameter in host.named_parameters() if not torch.equal(parameter, before[name])}
    assert shrunk == {"conv.weight", "sampler.gate_proj.weight"}
    torch.testing.assert_close(host.conv.weight, before["conv.weight"] * (1 - 0.1 * 0.5))


def test_the_schedule_keeps_the_ratios_of_the_groups():
    optimizer = make_optimizer(Host(), OptimConfig(lr=2.0))
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.25)
    assert {group["role"]: group["lr"] for group in optimizer.param_groups} == {
        "decay": 0.5,
        "no_decay": 0.5,
        "sampling_offsets": 0.05,
        "gate": 0.5,
    }
