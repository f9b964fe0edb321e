import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from numerics import assert_equal_up_to_rounding
from rows import pack_rows

ROWS = [[[9, "draw"], ["image", 9, 10, "draw", 11]], [[9, 10], ["image", 12]]]


def test_a_saved_model_is_the_same_model(model: MMInterleaved, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "processor.json",
    }
    loaded = MMInterleaved.from_pretrained(tmp_path)
    batch = pack_rows(ROWS)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items()), "they are copies"
    assert_equal_up_to_rounding(loaded(batch).loss, model(batch).loss)
    assert loaded.processor is not None


def test_half_precision_weights_load(model: MMInterleaved, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, tmp_path / "model.safetensors")
    loaded = MMInterleaved.from_pretrained(tmp_path)
    assert loaded.begin_of_image.dtype == torch.float32
    torch.testing.assert_close(loaded(pack_rows(ROWS)).loss, model(pack_rows(ROWS)).loss, rtol=1e-2, atol=1e-2)


def test_weights_are_read_in_the_type_that_is_asked_for(model: MMInterleaved, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = MMInterleaved.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight.to(torch.bfloat16), rtol=0, atol=0)
    exact, buffers = dict(model.named_buffers()), dict(loaded.named_buffers())
    assert all(torch.equal(buffers[name], exact[name]) for name in exact)
    torch.testing.assert_close(loaded(pack_rows(ROWS)).loss, model(pack_rows(ROWS)).loss, rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match=r"dtype is torch\.int8; expected a float type"):
        MMInterleaved.from_pretrained(tmp_path, dtype=torch.int8)


def test_what_is_wrong_with_a_directory_is_said(model: MMInterleaved, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json\. Expected a directory written by"):
        MMInterleaved.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["language_model"]["mmfs_every"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not fit the configuration beside it: \d+ keys are missing"):
        MMInterleaved.from_pretrained(tmp_path)


def test_the_toy_fits_the_shipped_size(processor: MMInterleavedProcessor) -> None:
    model = MMInterleaved(MMInterleavedConfig.toy(), processor)
    assert sum(p.numel() for p in model.parameters()) * 2 < 12e6  # bytes in half precision


def test_it_reads_and_draws_images_that_are_no_squares(model: MMInterleaved, tmp_path: Path) -> None:
    """Read 16 x 32 and drawn 32 x 48 pixels, (height, width)."""
    config = MMInterleavedConfig.tiny()
    vision = dataclasses.replace(config.visual_tokenizer, image_size=(16, 32))
    config = dataclasses.replace(
        config, visual_tokenizer=vision, image_decoder=dataclasses.replace(config.image_decoder, image_size=(32, 48))
    )
    assert MMInterleavedConfig.from_dict(config.to_dict()).drawn_image_size == (32, 48)
    model.save_pretrained(tmp_path)  # the same weights fit
    wide = MMInterleaved.from_pretrained(tmp_path, config=config)
    options = {"mode": "image", "max_new_images": 2, "num_inference_steps": 1}
    drawn = wide.generate(["a", Image.new("RGB", (64, 32), "red")], **options)
    assert [image.size for image in drawn] == [(48, 32), (48, 32)]

    batch = pack_rows(ROWS)
    shaped = {"pixel_values": torch.rand(len(batch.pixel_values), 3, 16, 32)}
    shaped["drawn_pixels"] = torch.rand(len(batch.drawn), 3, 32, 48)
    output = wide(dataclasses.replace(batch, **shaped))
    assert output.num_drawn == len(batch.drawn) > 0
    output.loss.backward()
    assert output.loss.isfinite()
