"""The visual tokenizer: images in [0, 1] to visual tokens and features."""

import dataclasses

import pytest
import torch

from models.config import MMInterleavedConfig
from models.visual_tokenizer import VisualTokenizer
from numerics import assert_equal_up_to_rounding

CONFIG = MMInterleavedConfig.tiny().visual_tokenizer
LM_HIDDEN = 24


@pytest.fixture
def tokenizer() -> VisualTokenizer:
    torch.manual_seed(0)
    return VisualTokenizer(CONFIG, LM_HIDDEN).eval()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64), (24, 40)])
@pytest.mark.parametrize("num_images", [3, 0])
def test_shapes(tokenizer, num_images, height, width):
    tokens, features = tokenizer(torch.rand(num_images, 3, height, width))

    num_pixels = sum(h * w for h, w in tokenizer.adapter.level_shapes(height, width))
    assert tokens.shape == (num_images, CONFIG.num_visual_tokens, LM_HIDDEN)
    assert features.shape == (num_images, num_pixels, CONFIG.vision_encoder["hidden_size"])


def test_spatial_shapes_are_those_of_the_configured_size(tokenizer):
    assert tokenizer.spatial_shapes == ((16, 16), (8, 8), (4, 4), (2, 2))

    toy = VisualTokenizer(MMInterleavedConfig.toy().visual_tokenizer, LM_HIDDEN)
    assert toy.spatial_shapes == ((16, 16), (8, 8), (4, 4), (2, 2))


def test_no_image_still_gives_every_trained_part_of_the_tokens_a_gradient(tokenizer):
    tokens, features = tokenizer(torch.rand(0, 3, 32, 32))
    (tokens.sum() + features.sum()).backward()

    assert tokenizer.resampler.queries.grad.abs().max() == 0


def test_the_encoder_sees_normalised_pixels(tokenizer):
    seen = []
    hook = tokenizer.adapter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pixels = tokenizer.image_mean.expand(1, 3, 32, 32).clone()
    pixels[..., 5] += tokenizer.image_std.view(3, 1)
    before = pixels.clone()
    tokenizer(pixels)
    hook.remove()

    expected = torch.zeros(1, 3, 32, 32)
    expected[..., 5] = 1
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(pixels, before)


def test_features_are_level_major_finest_first_and_carry_their_positions(tokenizer):
    pixels = torch.rand(2, 3, 32, 64)
    _, maps = tokenizer.adapter((pixels - tokenizer.image_mean) / tokenizer.image_std)
    _, features = tokenizer(pixels)

    levels = features.split([h * w for h, w in tokenizer.adapter.level_shapes(32, 64)], dim=1)
    codes = [level - map_.flatten(2).transpose(1, 2) for level, map_ in zip(levels, maps, strict=True)]
    for code, map_ in zip(codes, maps, strict=True):
        code = code.unflatten(1, map_.shape[-2:])  # [N, h, w, C]
        y, x = code[..., :8], code[..., 8:]
        assert (y - y[:, :, :1]).abs().max() < 1e-5  # y is the same along a row
        assert (x - x[:, :1]).abs().max() < 1e-5
        assert (y[0, 0, 0] - y[0, 1, 0]).abs().max() > 1e-2
        assert (x[0, 0, 0] - x[0, 0, 1]).abs().max() > 1e-2


def test_where_things_are_matters_to_the_tokens(tokenizer):
    """The resampler treats its inputs as a set: without positions, shuffled patches would look the same to it."""

    def reverse_patches(_adapter, _args, output):
        hidden, maps = output
        return torch.cat([hidden[:, :1], hidden[:, 1:].flip(1)], dim=1), maps

    pixels = torch.rand(1, 3, 32, 32)
    tokens, _ = tokenizer(pixels)
    tokenizer.adapter.register_forward_hook(reverse_patches)
    flipped, _ = tokenizer(pixels)

    assert (tokens - flipped).abs().max() > 1e-6


def test_resolution_adds_pixels_to_the_features_but_no_tokens(tokenizer):
    small = torch.rand(1, 3, 32, 32)
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    tokens, features = tokenizer(small)
    more_tokens, more_features = tokenizer(large)

    assert more_tokens.shape == tokens.shape
    assert more_features.shape[1] == 4 * features.shape[1]
    assert (more_tokens - tokens).abs().max() > 1e-6


def test_visual_tokens_start_as_small_as_embeddings(tokenizer):
    tokens, _ = tokenizer(torch.rand(4, 3, 32, 32))

    assert tokens.sub(tokenizer.resampler.output_proj.bias).std() < 0.02


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(tokenizer, dtype):
    tokens, features = tokenizer.to(dtype)(torch.rand(1, 3, 32, 32))

    assert tokens.dtype == features.dtype == dtype
    assert tokens.isfinite().all()


def test_gradients_reach_everything_that_is_trainable(tokenizer):
    for injector in tokenizer.adapter.injectors:
        torch.nn.init.ones_(injector.gamma)
    tokens, features = tokenizer(torch.rand(2, 3, 32, 64))
    (tokens.square().sum() + features.square().sum()).backward()

    missing = [name for name, p in tokenizer.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_export_keeps_the_number_of_images_dynamic(tokenizer):
    images = torch.export.Dim("images")
    program = torch.export.export(tokenizer, (torch.rand(2, 3, 32, 48),), dynamic_shapes=({0: images},))

    pixels = torch.rand(5, 3, 32, 48)
    torch.testing.assert_close(program.module()(pixels), tokenizer(pixels))
    calls = [node for node in program.graph.nodes if node.target is torch.ops.mmfs.ms_deform_attn.default]
    adapter = tokenizer.adapter
    assert len(calls) == len(adapter.injectors) + len(adapter.extractors) + len(adapter.extra_extractors)


def test_state_dict_round_trip_without_buffers(tokenizer):
    other = VisualTokenizer(dataclasses.replace(CONFIG), LM_HIDDEN).eval()
    other.load_state_dict(tokenizer.state_dict())

    pixels = torch.rand(1, 3, 32, 32)
    for actual, expected in zip(other(pixels), tokenizer(pixels), strict=True):
        assert_equal_up_to_rounding(actual, expected)
    assert not any("image_" in name for name in tokenizer.state_dict())
