"""The Q-Former: who reads what, masks, errors. Its numbers are in test_released_parity.py."""

import pytest
import torch

from models.qformer import QFormer
from numerics import assert_equal_up_to_rounding


def build(**options) -> QFormer:
    torch.manual_seed(0)
    sizes = {"num_queries": 3, "dim": 16, "input_dim": 10, "output_dim": 7, "num_layers": 3, "num_heads": 4}
    qformer = QFormer(**{**sizes, "ffn_dim": 32, **options})
    for parameter in qformer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return qformer


@pytest.mark.parametrize(("num_items", "num_inputs"), [(2, 5), (0, 5), (2, 0)])
def test_shapes_and_nothing_to_read(num_items, num_inputs):
    tokens = build()(torch.randn(num_items, num_inputs, 10))

    assert tokens.shape == (num_items, 3, 7)
    assert tokens.isfinite().all()


@pytest.mark.parametrize(("cross_every", "reading"), [(1, [0, 1, 2]), (2, [0, 2]), (3, [0])])
def test_every_nth_layer_reads_the_inputs(cross_every, reading):
    qformer = build(cross_every=cross_every)

    assert [i for i, layer in enumerate(qformer.layers) if layer.cross_attention is not None] == reading


def test_without_a_projection_tokens_have_the_inner_width():
    assert build(output_dim=None)(torch.randn(2, 5, 10)).shape == (2, 3, 16)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_parameter_learns(qk_norm):
    build_ = build(qk_norm=qk_norm)
    build_(torch.randn(2, 5, 10)).square().sum().backward()

    for name, parameter in build_.named_parameters():
        # A bias of all keys shifts a query's logits alike, and softmax does not see it: its gradient is rounding.
        assert parameter.grad.abs().max() > 0 or "key" in name, name


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_mask_equals_leaving_the_inputs_out(qk_norm):
    qformer, inputs = build(qk_norm=qk_norm), torch.randn(1, 5, 10)
    mask = torch.tensor([[True, False, True, False, True]])

    torch.testing.assert_close(qformer(inputs, mask), qformer(inputs[:, ::2]))
    assert (qformer(inputs) - qformer(inputs, mask)).abs().max() > 1e-3


def test_a_fully_masked_item_is_as_one_without_inputs():
    qformer, inputs = build(), torch.randn(2, 5, 10, requires_grad=True)
    tokens = qformer(inputs, torch.tensor([[False] * 5, [True] * 5]))
    tokens.square().sum().backward()

    torch.testing.assert_close(tokens[:1], qformer(inputs[:1, :0]))
    assert inputs.grad.isfinite().all()
    assert inputs.grad[0].abs().max() == 0


def test_wrong_use_is_a_sentence():
    with pytest.raises(ValueError, match=r"mask is torch.int64 \[2, 5\]; expected torch.bool"):
        build()(torch.randn(2, 5, 10), torch.ones(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="4 heads cannot share"):
        build(dim=18)
    with pytest.raises(ValueError, match="cross_every is 0; expected 1"):
        build(cross_every=0)


@torch.no_grad()
def test_dropout_is_for_training_alone():
    inputs, plain, dropping = torch.randn(2, 5, 10), build(), build(dropout=0.1)
    for qformer in (plain.train(), plain.eval(), dropping.eval()):
        assert_equal_up_to_rounding(qformer(inputs), plain(inputs))
    dropping.train()
    one, other = dropping(inputs), dropping(inputs)
    assert (one - other).abs().max() > 1e-3
    assert (one - plain(inputs)).abs().max() > 1e-3


@torch.no_grad()
def test_what_is_dropped_is_as_many_as_it_says():
    """Attention weights too: a head that averages ones gives other numbers than 1 when some are left out."""
    attention = build(dropout=0.3).train().layers[0].self_attention
    attention.value_proj.weight.zero_()
    attention.value_proj.bias.fill_(1)
    seen = []
    attention.output_proj.register_forward_hook(lambda _module, arguments, _output: seen.append(arguments[0]))
    attention.dropout.register_forward_hook(lambda _module, _arguments, output: seen.append(output))
    latents = torch.randn(2000, 3, 16)
    attention(latents, latents)
    attended, output = seen
    assert (attended - 1).abs().max() > 0.1
    torch.testing.assert_close(attended.mean(), torch.tensor(1.0), rtol=0, atol=0.02)
    assert abs(float((output == 0).float().mean()) - 0.3) < 0.02


def test_a_share_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"dropout is 1\.0; expected a share from 0 to below 1"):
        build(dropout=1.0)
