"""ViT-Adapter: CLIP stays CLIP, the pyramid has the promised sizes, and everything learns."""

import pytest
import torch
from transformers import CLIPVisionModel

from mmfs import MSDeformAttn
from models.vision_encoders.clip import CLIPEncoder
from models.vit_adapter import ViTAdapter, spread

PATCH, SIDE, DIM = 8, 32, 16


def make_adapter(**options) -> ViTAdapter:
    torch.manual_seed(0)
    clip = CLIPEncoder.new(
        {
            "hidden_size": DIM,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": SIDE,
            "patch_size": PATCH,
        }
    )
    settings = {"num_blocks": 2, "num_heads": 2, "prior_channels": 4, "prior_scale": 8, **options}
    return ViTAdapter(clip, **settings).eval()


def wake_injectors(adapter: ViTAdapter) -> ViTAdapter:
    """As after training: the injectors let something through, and where to look depends on the query."""
    for injector in adapter.injectors:
        torch.nn.init.normal_(injector.gamma, std=0.5)
    for attention in attentions(adapter):
        torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.1)
        torch.nn.init.normal_(attention.attention_weights.weight, std=0.1)
    return adapter


def attentions(adapter: ViTAdapter) -> list[MSDeformAttn]:
    return [block.attention for block in (*adapter.injectors, *adapter.extractors, *adapter.extra_extractors)]


@pytest.mark.parametrize(
    ("prior_scale", "height", "width", "shapes"),
    [
        pytest.param(8, 32, 32, [(8, 8), (4, 4), (2, 2), (1, 1)], id="the patch grid is the second level"),
        pytest.param(16, 32, 32, [(16, 16), (8, 8), (4, 4), (2, 2)], id="the patch grid is the third level"),
        pytest.param(8, 24, 40, [(6, 10), (3, 5), (2, 3), (1, 2)], id="not square, odd"),
        pytest.param(16, 16, 64, [(8, 32), (4, 16), (2, 8), (1, 4)], id="as many patches, another shape"),
    ],
)
@pytest.mark.parametrize("num_images", [2, 0])
def test_shapes(prior_scale, height, width, shapes, num_images):
    adapter = make_adapter(prior_scale=prior_scale)
    hidden, maps = adapter(torch.randn(num_images, 3, height, width))

    assert hidden.shape == (num_images, 1 + (height // PATCH) * (width // PATCH), DIM)
    assert [tuple(map_.shape) for map_ in maps] == [(num_images, DIM, h, w) for h, w in shapes]
    assert adapter.level_shapes(height, width) == tuple(shapes)


def test_the_release_gets_64_32_16_8_from_224_pixels():
    adapter = make_adapter(prior_scale=16)
    adapter.patch_size = 14

    assert adapter.level_shapes(224, 224) == ((64, 64), (32, 32), (16, 16), (8, 8))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (16, 64)])
def test_with_gamma_0_clip_is_clip(height, width):
    adapter = make_adapter()
    pixels = torch.randn(2, 3, height, width)

    hidden, _ = adapter(pixels)
    plain = adapter.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(hidden, plain)

    woken, _ = wake_injectors(adapter)(pixels)
    assert (woken - plain).abs().max() > 1e-3


def test_clip_keeps_its_keys_and_holds_nothing_of_the_adapter():
    adapter = make_adapter()
    plain = CLIPVisionModel(adapter.vision_model.config)

    assert adapter.vision_model.state_dict().keys() == plain.state_dict().keys()
    own = {name for name in adapter.state_dict() if not name.startswith("vision_model.")}
    assert not any(key.startswith(("encoder", "embeddings")) for key in own)
    adapter.vision_model.load_state_dict(plain.state_dict())  # strict


def test_gradients_reach_everything_that_is_trainable():
    adapter = wake_injectors(make_adapter())
    hidden, maps = adapter(torch.randn(2, 3, SIDE, 2 * SIDE))
    (hidden.square().sum() + sum(map_.pow(2).sum() for map_ in maps)).backward()

    for name, parameter in adapter.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            # Keys share their bias with every key of a query, and softmax does not see it: its gradient is rounding.
            assert name.endswith("k_proj.bias") or parameter.grad.abs().max() > 0, name
    frozen = [name for name, parameter in adapter.named_parameters() if not parameter.requires_grad]
    assert frozen == ["vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias"]


def test_deformable_points_start_apart_and_learn_apart():
    """In the released model the points of a head start equal, so they get equal gradients and never separate."""
    adapter = wake_injectors(make_adapter())
    hidden, maps = adapter(torch.randn(2, 3, SIDE, SIDE))
    (hidden.pow(2).sum() + sum(map_.pow(2).sum() for map_ in maps)).backward()

    for attention in attentions(adapter):
        points = attention.sampling_offsets.bias.detach().view(2, -1, 4, 2)  # heads, levels, points, (x, y)
        distance = torch.cdist(points, points) + torch.eye(4)
        assert distance.min() > 0.5
        gradient = attention.sampling_offsets.bias.grad.view(2, -1, 4, 2)
        assert (gradient - gradient[:, :, :1]).abs().max() > 0


def test_detail_finer_than_the_vit_sees_is_in_the_finest_map():
    """Two images whose patches differ by one pixel: the finest map differs where the pixel is, not elsewhere."""
    adapter = make_adapter()
    for layer in adapter.vision_model.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)  # patches stay apart, so the change stays where it is
    for extractor in (*adapter.extractors, *adapter.extra_extractors):
        torch.nn.init.zeros_(extractor.attention.output_proj.weight)
        torch.nn.init.zeros_(extractor.ffn.fc2.weight)
    pixels = torch.zeros(1, 3, SIDE, 2 * SIDE)
    dotted = pixels.clone()
    dotted[..., 2, 60] = 1.0  # row 2, column 60: top right

    finest, other = adapter(pixels)[1][0], adapter(dotted)[1][0]  # [1, C, 8, 16]
    changed = (finest - other).abs().amax(dim=(0, 1)) > 1e-6  # [8, 16]
    assert changed[0, 15]
    assert not changed[:, :8].any()
    assert not changed[6:].any()


@pytest.mark.parametrize(
    ("num_stages", "expected"),
    [(1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3]), (8, [1, 3, 5, 7])],
)
def test_levels_share_the_stages(num_stages, expected):
    assert [int(stage) for stage in spread([torch.tensor(i) for i in range(num_stages)])] == expected


def test_wrong_use_is_a_sentence():
    adapter = make_adapter()
    with pytest.raises(ValueError, match="32 x 36 pixels; both sides must be positive multiples of the patch size 8"):
        adapter(torch.randn(1, 3, 32, 36))
    with pytest.raises(ValueError, match="The 4 layers of the vision encoder do not divide into 3 blocks"):
        make_adapter(num_blocks=3)
    with pytest.raises(ValueError, match="prior_scale is 12; expected a multiple of 8"):
        make_adapter(prior_scale=12)
