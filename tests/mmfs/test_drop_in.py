"""mmfs in place of what transformers' Deformable-DETR computes with: same outputs, same gradients, same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from transformers.models.deformable_detr import modeling_deformable_detr as theirs

import mmfs

NUM_LEVELS = 3


def tiny_detector(**options: object) -> DeformableDetrForObjectDetection:
    """Random weights, in float64, so that what differs is not rounding."""
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage3"]
    )
    config = DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_feature_levels=NUM_LEVELS,
        encoder_n_points=3,
        decoder_n_points=2,
        num_queries=7,
        two_stage_num_proposals=7,
        dropout=0.0,
        **options,
    )
    model = DeformableDetrForObjectDetection(config).double().eval()
    for attention in deformable_attentions(model):
        nn.init.normal_(attention.sampling_offsets.weight, std=0.3)  # else all queries would look at one ring
    return model


def deformable_attentions(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, theirs.DeformableDetrMultiscaleDeformableAttention)]


def output_and_gradients(model: nn.Module) -> dict[str, Tensor]:
    """For two images, neither square, the second padded on two sides."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 64, 96, generator=draw, dtype=torch.float64).requires_grad_()
    mask = torch.ones(2, 64, 96, dtype=torch.long)
    mask[1, 40:] = 0
    mask[1, :, 70:] = 0
    out = model(pixel_values=pixels, pixel_mask=mask)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    total = sum(part.sin().sum() for part in (out.logits, out.pred_boxes, out.encoder_last_hidden_state))
    gradients = torch.autograd.grad(total, [pixels, *parameters], allow_unused=True)
    found = {"logits": out.logits.detach(), "pred_boxes": out.pred_boxes.detach()}
    return found | {n: g for n, g in zip(("pixels", *names), gradients, strict=True) if g is not None}


@pytest.mark.parametrize("two_stage", [False, True])
def test_a_deformable_detr_gives_the_same_with_ours(two_stage: bool) -> None:
    """With points as references, and with boxes."""
    detector = tiny_detector(two_stage=two_stage, with_box_refine=two_stage)
    model = detector.model
    expected = output_and_gradients(detector)
    before = copy.deepcopy(model.state_dict())

    # fmt: off
    for layer in model.encoder.layers: layer.self_attn.attn = mmfs.MultiScaleDeformableAttention()  # noqa: E701
    for layer in model.decoder.layers: layer.encoder_attn.attn = mmfs.MultiScaleDeformableAttention()  # noqa: E701
    # fmt: on

    assert not any(isinstance(module, theirs.MultiScaleDeformableAttention) for module in model.modules())
    assert model.state_dict().keys() == before.keys()
    actual = output_and_gradients(detector)
    assert actual.keys() == expected.keys()
    attention_gradients = [name for name in expected if ".sampling_offsets." in name or ".attention_weights." in name]
    assert len(attention_gradients) == 4 * len(deformable_attentions(model))
    for name, tensor in expected.items():
        assert tensor.abs().max() > 0 or name not in attention_gradients, f"{name} is 0: nothing is compared"
        torch.testing.assert_close(
            actual[name], tensor, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("boxes", [False, True])
def test_a_layer_of_transformers_loads_into_ours_and_computes_the_same(boxes: bool) -> None:
    layer = deformable_attentions(tiny_detector())[0]
    ours = mmfs.MSDeformAttn(32, n_levels=NUM_LEVELS, n_heads=4, n_points=3).double()
    ours.load_state_dict(layer.state_dict())  # strict

    sizes = [(6, 9), (3, 5), (2, 3)]
    shapes = torch.tensor(sizes)
    query = torch.randn(2, 5, 32, dtype=torch.float64)
    image = torch.randn(2, int(shapes.prod(-1).sum()), 32, dtype=torch.float64)
    points = torch.rand(2, 5, NUM_LEVELS, 4 if boxes else 2, dtype=torch.float64)
    padding = torch.rand(image.shape[:2]) < 0.3
    expected, _ = layer(
        query,
        attention_mask=~padding,  # theirs is True where there is an image
        encoder_hidden_states=image,
        reference_points=points,
        spatial_shapes=shapes,
        spatial_shapes_list=sizes,
    )
    torch.testing.assert_close(ours(query, points, image, shapes, None, padding), expected)


def test_a_deformable_detr_in_bfloat16_runs_with_ours() -> None:
    """The model makes bfloat16 locations; what it gives stays close to float32."""
    model = tiny_detector().model.float()
    for attention in deformable_attentions(model):
        attention.attn = mmfs.MultiScaleDeformableAttention()
    pixels = torch.rand(1, 3, 64, 96)
    exact = model(pixel_values=pixels).encoder_last_hidden_state
    half = model.bfloat16()(pixel_values=pixels.bfloat16()).encoder_last_hidden_state
    assert half.dtype == torch.bfloat16
    assert (half - exact).norm() < 0.1 * exact.norm()
