"""mmfs in the detectors and segmenters of transformers: the same outputs and gradients, in less time.

    python -m examples.drop_in

Each model is small and has random weights. A model with trained weights is changed in the same way, before or after
`from_pretrained`: parameters and their names stay what they are.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerModel,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    SwinConfig,
)

import mmfs

# ---- the four models, small ----


@dataclass(frozen=True)
class Case:
    """A model with random weights, what it is given, and what of its output is compared."""

    name: str
    model: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


IMAGE_SIZE = (192, 256)


def cases() -> Iterator[Case]:
    """One after the other, so that only one is in memory."""
    for make in (deformable_detr, grounding_dino, rt_detr, mask2former):
        torch.manual_seed(0)
        yield make()


def deformable_detr() -> Case:
    config = DeformableDetrConfig(
        backbone_config=_resnet(["stage2", "stage3", "stage4"]),
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=100,
        dropout=0.0,
    )
    outputs = ("logits", "pred_boxes", "encoder_last_hidden_state")
    return Case("Deformable DETR", DeformableDetrForObjectDetection(config), {"pixel_values": _pixels()}, outputs)


def grounding_dino() -> Case:
    config = GroundingDinoConfig(
        backbone_config=_swin(["stage2", "stage3", "stage4"]),
        text_config=BertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=1100
        ),
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=100,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=0.0,
    )
    begin, end, stop = 101, 102, 1012  # as its tokenizer numbers [CLS], [SEP] and the full stop between phrases
    text = torch.tensor([[begin, 7, 8, stop, 9, stop, end]])
    inputs = {"pixel_values": _pixels(), "input_ids": text, "attention_mask": torch.ones_like(text)}
    outputs = ("pred_boxes", "encoder_last_hidden_state_vision")
    return Case("Grounding DINO", GroundingDinoForObjectDetection(config), inputs, outputs)


def rt_detr() -> Case:
    backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[24, 32, 48],
        encoder_hidden_dim=128,
        decoder_in_channels=[128, 128, 128],
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        d_model=128,
        decoder_layers=3,
        num_queries=100,
        num_denoising=0,
        dropout=0.0,
        eval_size=None,
    )
    return Case("RT-DETR", RTDetrForObjectDetection(config), {"pixel_values": _pixels()}, ("logits", "pred_boxes"))


def mask2former() -> Case:
    config = Mask2FormerConfig(
        backbone_config=_swin(["stage1", "stage2", "stage3", "stage4"]),
        feature_size=128,
        mask_feature_size=128,
        hidden_dim=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_feedforward_dim=128,
        dim_feedforward=128,
        num_queries=50,
        dropout=0.0,
    )
    outputs = ("pixel_decoder_last_hidden_state", "transformer_decoder_last_hidden_state")
    return Case("Mask2Former", Mask2FormerModel(config), {"pixel_values": _pixels()}, outputs)


def _pixels() -> Tensor:
    return torch.rand(1, 3, *IMAGE_SIZE)


def _resnet(stages: list[str]) -> ResNetConfig:
    return ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic", out_features=stages
    )


def _swin(stages: list[str]) -> SwinConfig:
    return SwinConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=4, out_features=stages)


# ---- the comparison ----


@dataclass(frozen=True)
class Result:
    """Of one model."""

    name: str
    num_layers: int
    """Attentions that were replaced."""

    output_error: float
    """Largest difference of an output, over the largest output; in float64."""

    gradient_error: float
    """The same of the gradients of all parameters and pixels."""

    speed: float
    """Seconds of a forward pass of the whole model with transformers' function, over seconds with ours; float32."""


def compare(case: Case, *, rounds: int) -> Result:
    """Outputs and gradients with transformers' attention and with ours, then the times."""
    theirs = case.model.eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("sampling_offsets.weight"):
            nn.init.normal_(parameter, std=0.05)  # with fresh weights all queries would have the same offsets
    ours = copy.deepcopy(theirs)
    num_layers = len(mmfs.replace_attention(ours).replaced)  # what you need in your own program
    if ours.state_dict().keys() != theirs.state_dict().keys():
        raise RuntimeError(f"The parameters of {case.name} have other names with mmfs.")
    expected, actual = outputs_and_gradients(theirs.double(), case), outputs_and_gradients(ours.double(), case)
    output_error, gradient_error = (largest_difference(*pair) for pair in zip(actual, expected, strict=True))
    theirs.float()
    ours.float()
    seconds = [(duration(theirs, case), duration(ours, case)) for _ in range(rounds)]  # in turns: one machine for both
    best_of_theirs, best_of_ours = (min(column) for column in zip(*seconds, strict=True))
    return Result(case.name, num_layers, output_error, gradient_error, best_of_theirs / best_of_ours)


def outputs_and_gradients(model: nn.Module, case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """In float64, so that what differs is not rounding."""
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in case.inputs.items()}
    pixels = inputs["pixel_values"].requires_grad_()
    found = model(**inputs)
    outputs = {name: getattr(found, name) for name in case.outputs}
    names, parameters = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    total = sum(output[output.isfinite()].sin().sum() for output in outputs.values())
    gradients = torch.autograd.grad(total, [pixels, *parameters], allow_unused=True)
    found_gradients = {n: g for n, g in zip(("pixels", *names), gradients, strict=True) if g is not None}
    return {name: output.detach() for name, output in outputs.items()}, found_gradients


def largest_difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Over all tensors, each relative to its largest element."""
    if actual.keys() != expected.keys():
        raise RuntimeError(f"Only one of the two has {sorted(actual.keys() ^ expected.keys())}.")
    pairs = [(actual[name], tensor) for name, tensor in expected.items()]
    return max(
        float((a - b).nan_to_num(0.0).abs().max() / b.nan_to_num(0.0).abs().max().clamp(min=1e-6)) for a, b in pairs
    )


@torch.inference_mode()
def duration(model: nn.Module, case: Case) -> float:
    """Seconds of a forward pass."""
    start = time.perf_counter()
    model(**case.inputs)
    return time.perf_counter() - start


def main(rounds: int = 5) -> list[Result]:
    """Print a line for each model.

    Args:
        rounds: forward passes of each side, of which the fastest counts.
    """
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, about settings that these small models do without
        for case in cases():
            result = compare(case, rounds=rounds)
            print(f"{result.name}: {result.num_layers} attentions replaced,", end=" ")
            print(f"outputs differ by {result.output_error:.0e}, gradients by {result.gradient_error:.0e}", end="; ")
            print(f"the whole forward pass is {result.speed:.1f} times as fast")
            results.append(result)
    return results


if __name__ == "__main__":
    main()
