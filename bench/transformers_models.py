"""Models of transformers with multi-scale deformable attention, with random weights: small ones for tests, and ones of
a released model's size for times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Of the part that attends; backbones are small where they can be, as they are not what changes."""

    image_size: tuple[int, int]
    channels: int
    layers: int
    queries: int


SMALL = Sizes((64, 96), 32, 2, 12)
REALISTIC = Sizes((320, 320), 256, 6, 300)


@dataclass(frozen=True)
class Case:
    """A model in evaluation, what it is given, and which of its outputs are compared."""

    model: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def make(build: Callable[[Sizes], Case], sizes: Sizes) -> Case:
    """With weights that keep the size of what passes through them. transformers' own are so small, and some zero, that
    the features of a deep network that was not trained vanish, and with them every difference."""
    torch.manual_seed(0)
    case = build(sizes)
    for name, module in case.model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if name.endswith("sampling_offsets"):
                module.weight.data *= 0.3
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return Case(case.model.eval(), case.inputs, case.outputs)


def deformable_detr(sizes: Sizes) -> Case:
    config = hf.DeformableDetrConfig(backbone_config=_resnet(hf.ResNetConfig), **_detr(sizes), dropout=0.0)
    model = hf.DeformableDetrForObjectDetection(config)
    return Case(model, _image(sizes), ("logits", "pred_boxes", "encoder_last_hidden_state"))


def grounding_dino(sizes: Sizes) -> Case:
    text = hf.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=1100
    )
    no_dropout = dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "fusion_dropout", "fusion_droppath"), 0.0
    )
    config = hf.GroundingDinoConfig(
        backbone_config=_swin(["stage2", "stage3", "stage4"]), text_config=text, **_detr(sizes), **no_dropout
    )
    begin, end, stop = 101, 102, 1012  # as its tokenizer numbers [CLS], [SEP] and the full stop between phrases
    words = torch.tensor([[begin, 7, 8, stop, 9, stop, end]])
    inputs = _image(sizes) | {"input_ids": words, "attention_mask": torch.ones_like(words)}
    return Case(hf.GroundingDinoForObjectDetection(config), inputs, ("pred_boxes", "encoder_last_hidden_state_vision"))


def rt_detr(sizes: Sizes) -> Case:
    config = hf.RTDetrConfig(**_rt_detr(sizes), backbone_config=_resnet(hf.RTDetrResNetConfig))
    return Case(hf.RTDetrForObjectDetection(config), _image(sizes), ("logits", "pred_boxes"))


def rt_detr_v2(sizes: Sizes) -> Case:
    config = hf.RTDetrV2Config(**_rt_detr(sizes), backbone_config=_resnet(hf.RTDetrResNetConfig))
    return Case(hf.RTDetrV2ForObjectDetection(config), _image(sizes), ("logits", "pred_boxes"))


def d_fine(sizes: Sizes) -> Case:
    backbone = hf.HGNetV2Config(
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 48],
        hidden_sizes=[16, 24, 32, 48],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = hf.DFineConfig(**_rt_detr(sizes), backbone_config=backbone, decoder_n_points=[3, 6, 3])
    return Case(hf.DFineForObjectDetection(config), _image(sizes), ("logits", "pred_boxes"))


def lw_detr(sizes: Sizes) -> Case:
    side = max(sizes.image_size)
    backbone = hf.LwDetrViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        pretrain_image_size=side,
        patch_size=16,
        window_block_indices=[0],
        out_indices=[1, 2],
        num_windows=4,
        dropout_prob=0.0,
    )
    config = hf.LwDetrConfig(
        backbone_config=backbone,
        d_model=sizes.channels,
        decoder_layers=sizes.layers // 2,
        decoder_self_attention_heads=8,
        decoder_cross_attention_heads=8,
        decoder_ffn_dim=sizes.channels,
        projector_scale_factors=[2.0, 0.5],
        num_feature_levels=2,
        num_queries=sizes.queries,
        group_detr=2,
        dropout=0.0,
    )
    square = Sizes((side, side), sizes.channels, sizes.layers, sizes.queries)
    return Case(hf.LwDetrForObjectDetection(config), _image(square), ("logits", "pred_boxes"))


def mask2former(sizes: Sizes) -> Case:
    config = hf.Mask2FormerConfig(
        backbone_config=_swin(["stage1", "stage2", "stage3", "stage4"]),
        feature_size=sizes.channels,
        mask_feature_size=sizes.channels,
        hidden_dim=sizes.channels,
        encoder_layers=sizes.layers,
        decoder_layers=sizes.layers,
        encoder_feedforward_dim=2 * sizes.channels,
        dim_feedforward=2 * sizes.channels,
        num_queries=sizes.queries // 3,
        dropout=0.0,
    )
    outputs = ("pixel_decoder_last_hidden_state", "transformer_decoder_last_hidden_state")
    return Case(hf.Mask2FormerModel(config), _image(sizes), outputs)


def oneformer(sizes: Sizes) -> Case:
    config = hf.OneFormerConfig(
        backbone_config=_swin(["stage1", "stage2", "stage3", "stage4"]),
        conv_dim=sizes.channels,
        mask_dim=sizes.channels,
        hidden_dim=sizes.channels,
        encoder_layers=sizes.layers,
        decoder_layers=sizes.layers,
        encoder_feedforward_dim=2 * sizes.channels,
        dim_feedforward=2 * sizes.channels,
        num_queries=sizes.queries // 3,
        num_attention_heads=8,
        text_encoder_width=32,
        text_encoder_num_layers=1,
        text_encoder_n_ctx=4,
        text_encoder_vocab_size=100,
        task_seq_len=9,
        dropout=0.0,
    )
    inputs = _image(sizes) | {"task_inputs": torch.randint(0, 100, (1, 9))}
    return Case(
        hf.OneFormerModel(config),
        inputs,
        ("transformer_decoder_object_queries", "transformer_decoder_mask_predictions"),
    )


MODELS: dict[str, Callable[[Sizes], Case]] = {
    "Deformable DETR": deformable_detr,
    "Grounding DINO": grounding_dino,
    "RT-DETR": rt_detr,
    "RT-DETRv2": rt_detr_v2,
    "D-FINE": d_fine,
    "LW-DETR": lw_detr,
    "Mask2Former": mask2former,
    "OneFormer": oneformer,
}


def _image(sizes: Sizes) -> dict[str, Tensor]:
    return {"pixel_values": torch.rand(1, 3, *sizes.image_size)}


def _detr(sizes: Sizes) -> dict[str, Any]:
    return {
        "d_model": sizes.channels,
        "encoder_layers": sizes.layers,
        "decoder_layers": sizes.layers,
        "encoder_ffn_dim": 2 * sizes.channels,
        "decoder_ffn_dim": 2 * sizes.channels,
        "num_queries": sizes.queries,
    }


def _rt_detr(sizes: Sizes) -> dict[str, Any]:
    return {
        "encoder_in_channels": [24, 32, 48],
        "encoder_hidden_dim": sizes.channels,
        "decoder_in_channels": [sizes.channels] * 3,
        "encoder_ffn_dim": 2 * sizes.channels,
        "decoder_ffn_dim": 2 * sizes.channels,
        "d_model": sizes.channels,
        "decoder_layers": sizes.layers,
        "num_queries": sizes.queries,
        "num_denoising": 0,
        "dropout": 0.0,
        "eval_size": None,
    }


def _resnet(config: Any) -> Any:
    """A small one, of ResNet's config or RT-DETR's own."""
    return config(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def _swin(stages: list[str]) -> Any:
    return hf.SwinConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=4, out_features=stages)
