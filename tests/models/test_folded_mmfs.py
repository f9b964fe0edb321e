"""Letters: B sequences, T tokens, N images of the bank, S pyramid pixels."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from mmfs import MMFS, compiled
from mmfs.arguments import MMFSAttentionArguments
from models import MMInterleaved
from models.folded_mmfs import FoldedMMFS
from numerics import assert_equal_up_to_rounding

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


def few_tokens(*, null: bool = True) -> tuple[FoldedMMFS, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer, and hidden, attended, values and visible of tokens that are computed in one call of C."""
    mmfs, norm = layer_and_norm(null=null)
    folded = FoldedMMFS(mmfs, norm, CENTRE, torch.tensor([0.7]))
    visible = torch.tensor([[[0, 0], [0, 1], [1, 3], [0, 3]]]).repeat(2, 1, 1)
    return folded, torch.randn(2, 4, 24), torch.randn(2, 4, 24), mmfs.project_values(torch.randn(3, 19, 10)), visible


@pytest.mark.skipif(compiled.why_no_library() is not None, reason=str(compiled.why_no_library()))
@pytest.mark.parametrize("null", [True, False])
def test_few_tokens_are_computed_at_once_and_the_same(null: bool) -> None:
    folded, hidden, attended, values, visible = few_tokens(null=null)
    assert folded._at_once(hidden, attended, values, visible) is not None
    expected = folded._step_by_step(hidden + attended, values, visible, None)
    assert_equal_up_to_rounding(folded(hidden + attended, values, visible), expected)
    assert_equal_up_to_rounding(folded.add_to(attended, hidden, values, visible), attended + expected)


def test_what_is_recorded_or_differentiated_is_computed_by_operators() -> None:
    folded, hidden, attended, values, visible = few_tokens()
    expected = folded.add_to(attended, hidden, values, visible)
    recorded: list[MMFSAttentionArguments] = []
    assert_equal_up_to_rounding(folded.add_to(attended, hidden, values, visible, recorded.append), expected)
    assert recorded[0].sampling_offsets.shape == (2, 4, 2, 3, 2)
    found = folded.add_to(attended.requires_grad_(), hidden, values, visible)
    assert_equal_up_to_rounding(found.detach(), expected)
    found.sum().backward()
    assert attended.grad is not None, "what the host's layer computed keeps its gradient"


def test_a_range_outside_the_bank_is_refused_with_the_same_sentence() -> None:
    folded, hidden, attended, values, visible = few_tokens()
    with pytest.raises(ValueError, match="visible") as by_operators:
        folded._step_by_step(hidden, values, visible + 1, None)
    with pytest.raises(ValueError, match="visible") as at_once:
        folded.add_to(attended, hidden, values, visible + 1)
    assert str(at_once.value) == str(by_operators.value)


def same(found: list[FoldedMMFS | None], expected: list[FoldedMMFS | None]) -> list[bool]:
    return [one is other for one, other in zip(found, expected, strict=True)]


def through_data(weight: nn.Parameter) -> None:
    weight.data[0, 0] += 1  # does not count up the version


def in_an_optimizer(weight: nn.Parameter) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.1).step()


def by_exchanging_rows(weight: nn.Parameter) -> None:
    weight.data = weight.data.flip(0)


@pytest.mark.parametrize("change", [through_data, in_an_optimizer, by_exchanging_rows])
@pytest.mark.parametrize("name", ["query_proj", "sampling_offsets"])
def test_a_model_is_folded_once_until_a_number_changes(
    model: MMInterleaved, name: str, change: Callable[[nn.Parameter], None]
) -> None:
    language_model = model.language_model
    first = list(language_model.fold())
    assert first
    assert None not in first
    assert all(same(list(language_model.fold()), first))
    with torch.inference_mode():
        assert all(same(list(language_model.fold()), first))
    change(getattr(language_model.synchronizers[1].mmfs, name).weight)
    again = list(language_model.fold())
    assert again[1] is not first[1]
    assert all(same(list(language_model.fold()), again))
    assert not torch.equal(again[1].maps, first[1].maps)


def test_other_ways_in_which_weights_change(model: MMInterleaved) -> None:
    language_model = model.language_model
    first = list(language_model.fold())
    state = {name: tensor.clone() for name, tensor in language_model.state_dict().items()}
    state["synchronizers.0.gate"] += 1
    language_model.load_state_dict(state)
    second = list(language_model.fold())
    assert second[0] is not first[0]
    language_model.to(torch.bfloat16)
    third = list(language_model.fold())
    assert third[0].maps.dtype == torch.bfloat16
    language_model.train()
    assert language_model._folds._made == [], "training frees the memory"
    copied = copy.deepcopy(language_model)
    assert copied.fold()[0] is not language_model.fold()[0]


def add_hook(mmfs: MMFS) -> None:
    mmfs.output_proj.register_forward_hook(lambda _module, _args, output: 2 * output)


def add_hook_to_the_layer(mmfs: MMFS) -> None:
    mmfs.register_forward_hook(lambda _module, _args, output: 2 * output)


def normalise_weight(mmfs: MMFS) -> None:
    parametrizations.weight_norm(mmfs.query_proj)


class Doubling(nn.Linear):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(rows)


def exchange_class(mmfs: MMFS) -> None:
    mmfs.sampling_offsets.__class__ = Doubling


def choose_backend(mmfs: MMFS) -> None:
    mmfs.backend = "reference"


@pytest.mark.parametrize("change", [add_hook, add_hook_to_the_layer, normalise_weight, exchange_class, choose_backend])
def test_what_is_no_plain_projection_is_not_folded(model: MMInterleaved, change: Callable[[MMFS], None]) -> None:
    first = list(model.language_model.fold())
    change(model.language_model.synchronizers[1].mmfs)
    folded = list(model.language_model.fold())
    assert folded[1] is None
    assert folded[0] is not None
    assert first[1] is not None
