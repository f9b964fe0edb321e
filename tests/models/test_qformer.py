"""The Q-Former: who reads what, masks, errors. Its numbers are in test_released_parity.py."""

import pytest
import torch

from models.qformer import QFormer


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
