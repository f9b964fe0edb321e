"""Models from other encoders and language models, exported: a file is there only if it agrees with PyTorch."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from export.trt import main
from models import MMInterleaved
from tiny_snapshots import like, write_diffusion, write_language_model, write_vision_encoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision_encoder", "language_model", "image_size"),
    [
        pytest.param("siglip", "phi3", (24, 56), id="SigLIP at another size and Phi 3"),
        pytest.param("dinov2_with_registers", "gemma3_text", (32, 32), id="DINOv2 with registers and Gemma 3"),
    ],
)
def test_other_parts_are_exported_and_proved(
    tmp_path: Path, vision_encoder: str, language_model: str, image_size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = MMInterleaved.from_parts(
        vision_encoder=write_vision_encoder(tmp_path / "vit", vision_encoder),
        language_model=write_language_model(tmp_path / "lm", language_model),
        image_decoder=write_diffusion(tmp_path / "sd"),
        like=like(gate=0.3),
        image_size=image_size,
    )
    for parameter in model.parameters():
        if not parameter.any():  # also where training starts from zero
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "model")
    names = ("image_tokenizer", "llm")
    assert main([str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--components", ",".join(names)]) == 0
    for name in names:
        graph = onnx.load(tmp_path / "out" / "onnx" / f"{name}.onnx", load_external_data=False).graph
        assert {node.op_type for node in graph.node} & {"MSDeformAttn", "MMFS"}
