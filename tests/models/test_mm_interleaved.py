import dataclasses
import json
from pathlib import Path
from typing import IO

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.safetensors_writer import Tensors, write_safetensors
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
        "README.md",
        "SHA256SUMS",
    }
    loaded = MMInterleaved.from_pretrained(tmp_path)
    batch = pack_rows(ROWS)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items()), "they are copies"
    assert_equal_up_to_rounding(loaded(batch).loss, model(batch).loss)
    assert loaded.processor is not None


def test_weights_are_saved_in_whichever_order_they_lie_in_memory(model: MMInterleaved, tmp_path: Path) -> None:
    """safetensors 308 (channels last is refused) and 825 (transposed arrays come back as other numbers)."""
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.t().contiguous().t()
    assert not all(parameter.is_contiguous() for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    loaded = MMInterleaved.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_half_precision_weights_load(model: MMInterleaved, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "SHA256SUMS").unlink()
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
    with pytest.raises(ValueError, match=r"is not as it was saved: 'config.json' is missing or without the SHA-256"):
        MMInterleaved.from_pretrained(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
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


def test_weights_go_into_several_files(model: MMInterleaved, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.begin_of_image += 1
    for size in ("100KB", 300_000):
        model.save_pretrained(tmp_path, max_shard_size=size)
        shards = set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values())
        assert {path.name for path in tmp_path.glob("*.safetensors")} == shards, "of what was there before, nothing"
        assert len(shards) > 1
        loaded = MMInterleaved.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    model.save_pretrained(tmp_path / "small", max_shard_size="5GB")
    assert (tmp_path / "small" / "model.safetensors").is_file()
    with pytest.raises(ValueError, match="max_shard_size is 'much'; expected a number of bytes"):
        model.save_pretrained(tmp_path, max_shard_size="much")
    (tmp_path / "base.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a converted model \(base\.json\)\. Name another directory"):
        model.save_pretrained(tmp_path, max_shard_size="100KB")


def test_an_interrupted_save_leaves_the_weights_that_were_there(
    model: MMInterleaved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls: list[IO[bytes]] = []

    def fail_later(stream: IO[bytes], tensors: Tensors) -> None:
        calls.append(stream)
        if len(calls) == 2:
            raise OSError("no space left on device")
        write_safetensors(stream, tensors)

    monkeypatch.setattr("models.tensor_files.write_safetensors", fail_later)
    with pytest.raises(OSError, match="no space"):
        model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_types_may_be_named_or_be_as_stored(model: MMInterleaved, tmp_path: Path) -> None:
    model.language_model.host.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = MMInterleaved.from_pretrained(tmp_path, dtype="auto")
    assert {p.dtype for p in loaded.language_model.host.parameters()} == {torch.bfloat16}
    others = {p.dtype for name, p in loaded.named_parameters() if not name.startswith("language_model.host.")}
    assert others == {torch.float32}
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    loaded = MMInterleaved.from_pretrained(tmp_path, dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"dtype is 'int4'; expected a float type: .* or its name, or \"auto\""):
        MMInterleaved.from_pretrained(tmp_path, dtype="int4")


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, {"": torch.device("cpu")}])
def test_a_device_map_of_one_device(model: MMInterleaved, tmp_path: Path, device_map: object) -> None:
    model.save_pretrained(tmp_path)
    assert MMInterleaved.from_pretrained(tmp_path, device_map=device_map).device.type == "cpu"


@pytest.mark.parametrize("device_map", ["auto", "balanced", {"language_model": "cpu", "": "cpu"}, {}])
def test_a_model_is_not_spread_over_devices(tmp_path: Path, device_map: object) -> None:
    with pytest.raises(ValueError, match=r"expected one device, .* Give device='cuda'"):
        MMInterleaved.from_pretrained(tmp_path, device_map=device_map)


def test_a_model_card_is_written_once(model: MMInterleaved, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("mmfs", "any-to-any")
    assert "arxiv:2401.10208" in card.data.tags
    num_millions = sum(p.numel() for p in model.language_model.parameters()) / 1e6
    assert f"| `language_model` | llama | {num_millions:.1f} M |" in card.text
    assert "reads images of 32 x 32 pixels" in card.text
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_usage_of_the_model_card_runs(
    model: MMInterleaved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path)
    code = (tmp_path / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    exec(code.replace("owner/name", str(tmp_path)), {})
    assert capsys.readouterr().out.strip()


def test_gradient_checkpointing_under_transformers_name(model: MMInterleaved) -> None:
    model.train()
    unet = model.image_decoder.unet.host
    hosts = (model.visual_tokenizer.adapter.vision_model, model.language_model.host, unet)

    def enabled() -> list[bool]:
        return [any(getattr(module, "gradient_checkpointing", False) for module in host.modules()) for host in hosts]

    model.gradient_checkpointing_enable()
    assert enabled() == [True, True, True]
    model(pack_rows(ROWS)).loss.backward()
    model.gradient_checkpointing_disable()
    assert enabled() == [False, False, False]
