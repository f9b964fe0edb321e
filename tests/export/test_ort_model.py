from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from export.end_to_end import check_generation
from export.ort_model import OrtModel
from export.parity import ParityError
from export.samples import load_samples
from models import MMInterleaved


@pytest.fixture
def deployed(exported: Path) -> OrtModel:
    return OrtModel(exported)


def segments_equal(one: list[str | Image.Image], other: list[str | Image.Image]) -> bool:
    return len(one) == len(other) and all(
        a == b
        if isinstance(a, str)
        else not isinstance(b, str) and int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) <= 1
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_it_draws_when_the_model_wants_to_and_reads_what_it_drew(
    deployed: OrtModel, model: MMInterleaved, guidance_scale: float
) -> None:
    options = {
        "max_new_tokens": 8,
        "max_new_images": 2,
        "num_inference_steps": 3,
        "guidance_scale": guidance_scale,
        "seed": 5,
    }
    written = deployed.generate(["draw"], **options)
    assert isinstance(written[0], Image.Image)
    assert any(isinstance(segment, str) for segment in written)
    assert segments_equal(written, model.generate(["draw"], **options))


def test_it_continues_an_empty_document(deployed: OrtModel, model: MMInterleaved) -> None:
    options = {"mode": "text", "max_new_tokens": 4}
    assert deployed.generate([], **options) == model.generate([], **options)


def test_too_long_a_document_is_refused(deployed: OrtModel) -> None:
    with pytest.raises(ValueError, match="the language model reads 512"):
        deployed.generate(["word " * 600], mode="text", max_new_tokens=1)


def test_a_directory_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export\.trt"):
        OrtModel(tmp_path)


def test_assets_are_the_models(exported: Path, model: MMInterleaved) -> None:
    begin_of_image = torch.tensor([[model.config.begin_of_image_id]])
    no_tokens, nowhere = torch.zeros(0, 0, model.language_model.hidden_size), torch.zeros(0, 2, dtype=torch.int64)
    table = load_file(exported / "assets/embedding.safetensors")["embedding"]
    assert torch.equal(table[begin_of_image], model.embed(begin_of_image, no_tokens, nowhere))
    negative = load_file(exported / "assets/negative_context.safetensors")["negative_context"]
    assert torch.equal(negative, model.image_decoder.negative_context)


@pytest.mark.parametrize("part", ["language_model.host.lm_head.weight", "image_decoder.unet.host.conv_out.weight"])
def test_a_model_that_writes_or_draws_otherwise_is_not_equal(
    deployed: OrtModel, model: MMInterleaved, model_dir: Path, part: str
) -> None:
    with torch.no_grad():
        model.get_parameter(part).neg_()
    with pytest.raises(ParityError, match=r"generation: (in document 0|the picture in document 0)"):
        check_generation(model, deployed, load_samples(model_dir).documents)
