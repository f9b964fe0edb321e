"""The Perceiver resampler: shapes, masks, who reads what."""

import pytest
import torch

from models.resampler import Resampler


@pytest.fixture
def resampler() -> Resampler:
    torch.manual_seed(0)
    return Resampler(num_queries=3, dim=16, input_dim=10, output_dim=7, num_layers=2, num_heads=4)


@pytest.mark.parametrize(("num_items", "num_inputs"), [(2, 5), (0, 5), (2, 0)])
def test_shapes_and_nothing_to_read(resampler, num_items, num_inputs):
    tokens = resampler(torch.randn(num_items, num_inputs, 10))

    assert tokens.shape == (num_items, 3, 7)
    assert tokens.isfinite().all()


def test_every_parameter_learns_and_each_query_says_something_else(resampler):
    torch.nn.init.normal_(resampler.layers[0].ffn[-1].weight, std=0.1)  # 0 at first: nothing before it learns yet
    torch.nn.init.normal_(resampler.layers[1].ffn[-1].weight, std=0.1)
    tokens = resampler(torch.randn(2, 5, 10))
    tokens.square().sum().backward()

    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 1e-3
    for name, parameter in resampler.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_masked_inputs_do_not_matter(resampler):
    inputs = torch.randn(2, 5, 10)
    mask = torch.tensor([[True, True, False, True, False], [False, False, True, True, True]])
    other = torch.where(mask[:, :, None], inputs, torch.randn(2, 5, 10) * 100)

    torch.testing.assert_close(resampler(other, mask), resampler(inputs, mask))
    assert (resampler(other) - resampler(inputs)).abs().max() > 1e-3


def test_a_mask_equals_leaving_the_inputs_out(resampler):
    inputs = torch.randn(1, 5, 10)
    mask = torch.tensor([[True, False, True, False, True]])

    torch.testing.assert_close(resampler(inputs, mask), resampler(inputs[:, ::2]))


def test_a_fully_masked_item_is_finite_and_has_finite_gradients(resampler):
    inputs = torch.randn(2, 5, 10, requires_grad=True)
    mask = torch.tensor([[False] * 5, [True] * 5])
    tokens = resampler(inputs, mask)
    tokens.square().sum().backward()

    assert tokens.isfinite().all()
    assert inputs.grad.isfinite().all()
    assert inputs.grad[0].abs().max() == 0
    torch.testing.assert_close(tokens[:1], resampler(inputs[:1, :0]))  # as if there were no inputs


def test_fresh_weights_pass_on_what_differs_between_items():
    torch.manual_seed(0)
    resampler = Resampler(num_queries=4, dim=64, input_dim=32, output_dim=64, num_layers=1, num_heads=4)
    tokens = resampler(torch.randn(64, 12, 32))

    assert tokens.std(0).mean() > 0.3 * tokens.std()


def test_the_order_of_the_inputs_does_not_matter(resampler):
    """Positions are the caller's to add."""
    inputs = torch.randn(2, 5, 10)

    torch.testing.assert_close(resampler(inputs.flip(1)), resampler(inputs))


def test_export_keeps_items_and_inputs_dynamic(resampler):
    inputs, mask = torch.randn(2, 5, 10), torch.rand(2, 5) < 0.5
    axes = {0: torch.export.Dim("items"), 1: torch.export.Dim("inputs")}
    program = torch.export.export(resampler, (inputs, mask), dynamic_shapes=(axes, axes)).module()

    inputs, mask = torch.randn(4, 9, 10), torch.rand(4, 9) < 0.5
    torch.testing.assert_close(program(inputs, mask), resampler(inputs, mask))


def test_wrong_use_is_a_sentence(resampler):
    with pytest.raises(ValueError, match=r"mask is torch.int64 \[2, 5\]; expected torch.bool"):
        resampler(torch.randn(2, 5, 10), torch.ones(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\[5, 2\]; expected torch.bool \[2, 5\]"):
        resampler(torch.randn(2, 5, 10), torch.ones(5, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="4 heads cannot share"):
        Resampler(num_queries=3, dim=18, input_dim=10, output_dim=7, num_layers=2, num_heads=4)
