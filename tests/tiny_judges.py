"""Networks that judge drawn images, tiny and with random weights: as a user has them, in files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from inception_weights import formula_weights
from trainer.benchmarks.networks.inception import Inception


def write_inception(file: Path) -> Path:
    shapes = {name: list(tensor.shape) for name, tensor in Inception().state_dict().items()}
    save_file(formula_weights(shapes), file)
    return file


def write_clip(directory: Path) -> Path:
    torch.manual_seed(0)
    words = [chr(code) for code in range(33, 127)]
    vocabulary = [*words, *(f"{word}</w>" for word in words), "<|startoftext|>", "<|endoftext|>"]
    directory.mkdir()
    (directory / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(vocabulary),
            "bos_token_id": len(vocabulary) - 2,
            "eos_token_id": len(vocabulary) - 1,
            "pad_token_id": len(vocabulary) - 1,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(directory)
    CLIPTokenizer.from_pretrained(directory).save_pretrained(directory)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(directory)
    return directory


def write_segmenter(directory: Path, num_labels: int = 150) -> Path:
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        num_labels=num_labels,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(directory)
    SegformerImageProcessor(size={"height": 64, "width": 64}, do_reduce_labels=False).save_pretrained(directory)
    return directory
