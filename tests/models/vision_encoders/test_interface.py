"""Each vision encoder through its interface: what transformers' own module computes, and what the adapter needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModel

from models.vision_encoders.families import encoder_class
from models.vision_encoders.interface import VisionEncoder
from models.vit_adapter import ViTAdapter
from numerics import assert_equal_up_to_rounding
from tiny_snapshots import VIT

KINDS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"intermediate_size": 32, "initializer_factor": 4.0},
    "siglip_vision_model": {"intermediate_size": 32},
    "dinov2": {"mlp_ratio": 2, "initializer_range": 0.2, "layerscale_value": 0.7},
    "dinov2_with_registers": {"mlp_ratio": 2, "initializer_range": 0.2, "num_register_tokens": 3},
}
NUM_PREFIX_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1, "dinov2_with_registers": 4}


def make(kind: str, **changes: Any) -> VisionEncoder:
    torch.manual_seed(0)
    settings = {"model_type": kind, **VIT, **KINDS[kind], **changes}
    encoder = encoder_class(kind, "the settings").new(settings)
    encoder.model.eval()
    return encoder


def alone(encoder: VisionEncoder, pixels: torch.Tensor) -> torch.Tensor:
    """What the module's own forward pass gives."""
    options = {} if "dinov2" in encoder.model.config.model_type else {"interpolate_pos_encoding": True}
    return encoder.model(pixels, **options).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (24, 56)], ids=str)
@torch.no_grad()
def test_the_steps_are_the_modules_own_forward(kind: str, shape: tuple[int, int]) -> None:
    encoder, pixels = make(kind), torch.randn(2, 3, *shape)
    hidden = encoder.embed(pixels)
    for layer in encoder.layers:
        hidden = encoder.run_layer(layer, hidden)
    hidden = encoder.last_hidden_state(hidden)
    assert_equal_up_to_rounding(hidden, alone(encoder, pixels))
    assert encoder.num_prefix_tokens == NUM_PREFIX_TOKENS[kind]
    assert hidden.shape == (2, encoder.num_prefix_tokens + shape[0] * shape[1] // 64, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_leaves_it_as_it_was_until_gamma_opens(kind: str) -> None:
    encoder, pixels = make(kind), torch.randn(2, 3, 24, 40)
    adapter = ViTAdapter(encoder, num_blocks=2, num_heads=2, prior_channels=4, prior_scale=8).eval()
    plain = AutoModel.from_config(encoder.model.config)
    assert adapter.vision_model.state_dict().keys() == plain.state_dict().keys()
    hidden, maps = adapter(pixels)
    expected = alone(encoder, pixels)
    assert_equal_up_to_rounding(hidden, expected)
    assert [tuple(map_.shape) for map_ in maps] == [(2, 16, *shape) for shape in adapter.level_shapes(24, 40)]

    for injector in adapter.injectors:
        torch.nn.init.normal_(injector.gamma, std=0.5)
    hidden, maps = adapter(pixels)
    assert (hidden - expected).abs().max() > 1e-3
    (hidden.square().sum() + sum(map_.square().sum() for map_ in maps)).backward()
    without = {name for name, parameter in adapter.named_parameters() if parameter.grad is None}
    assert without == {name for name, parameter in adapter.named_parameters() if not parameter.requires_grad}
    assert all(p.grad is None for unused in encoder.unused() for p in _parameters(unused))


def _parameters(unused: torch.nn.Module | torch.nn.Parameter) -> list[torch.nn.Parameter]:
    return [unused] if isinstance(unused, torch.nn.Parameter) else list(unused.parameters())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_last_hidden_state_depends_on_nothing_that_is_unused(kind: str) -> None:
    encoder, pixels = make(kind), torch.randn(1, 3, 32, 32)
    expected = alone(encoder, pixels)
    for unused in encoder.unused():
        for parameter in _parameters(unused):
            parameter.fill_(torch.nan)
    torch.testing.assert_close(alone(encoder, pixels), expected)
    before = len(encoder.model.state_dict())
    has_head = any(isinstance(unused, torch.nn.Module) for unused in encoder.unused())
    encoder.drop_pooling_head()
    torch.testing.assert_close(alone(encoder, pixels), expected)
    assert (len(encoder.model.state_dict()) < before) == has_head


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_at_all(kind: str) -> None:
    adapter = ViTAdapter(make(kind), num_blocks=1, num_heads=2, prior_channels=4, prior_scale=8)
    hidden, maps = adapter(torch.randn(0, 3, 32, 32))
    assert hidden.shape == (0, NUM_PREFIX_TOKENS[kind] + 16, 16)
    assert [len(map_) for map_ in maps] == [0] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (32, 64)}, r"image_size \(32, 64\); expected the side of a square"),
        ({"num_channels": 1}, "reads 1 channels; expected 3"),
    ],
)
def test_what_no_encoder_here_can_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("dinov2", **changes)


def test_other_types_are_refused_with_those_that_work() -> None:
    with pytest.raises(ValueError, match=r"x holds a model of type 'vit'\. Expected a vision encoder of type clip, "):
        encoder_class("vit", "x")
    with pytest.raises(ValueError, match=r"x does not say its model_type\. Expected clip_vision_model, "):
        encoder_class(None, "x")
    with pytest.raises(ValueError, match=r"x is a SigLIP 2 with images of any shape \(NaFlex\).*siglip2-so400m"):
        encoder_class("siglip2", "x")
