from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export.runtime.assets import Assets
from models import MMInterleaved


def test_they_are_the_models(exported: Path, model: MMInterleaved) -> None:
    assets = Assets.load(exported / "assets")
    begin_of_image = torch.tensor([[model.config.begin_of_image_id]])
    no_tokens, nowhere = torch.zeros(0, 0, model.language_model.hidden_size), torch.zeros(0, 2, dtype=torch.int64)
    assert torch.equal(assets.embedding[begin_of_image], model.embed(begin_of_image, no_tokens, nowhere))
    assert assets.config == model.config
    assert assets.processor.encode_text("a text") == model.processor.encode_text("a text")
    negative = load_file(exported / "assets/negative_context.safetensors")["negative_context"]
    assert torch.equal(negative, model.image_decoder.negative_context)


def test_a_directory_without_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no processor"):
        Assets.load(tmp_path)
