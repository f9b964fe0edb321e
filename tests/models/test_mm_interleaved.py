import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from models import Batch, MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.unwritten import unwritten
from rows import pack_rows

ROWS = [[[9, "draw"], ["image", 9, 10, "draw", 11]], [[9, 10], ["image", 12]]]


def select(batch: Batch, **changes: torch.Tensor) -> Batch:
    return dataclasses.replace(batch, **changes)


def test_the_loss_is_the_papers_sum(model: MMInterleaved) -> None:
    output = model(pack_rows(ROWS))
    torch.testing.assert_close(output.loss, output.loss_text + 10 * output.loss_image)
    torch.testing.assert_close(output.loss_text * output.num_targets, output.text_loss_sum)
    torch.testing.assert_close(output.loss_image * output.num_drawn, output.image_loss_sum)
    assert output.num_drawn == 2
    assert output.num_targets == 3 + 6 + 3 + 3  # every token after <s> but the placeholders
    assert 4 < output.loss_text < 10  # near ln(1024) = 6.9 for random weights


def test_documents_in_a_row_do_not_meet(model: MMInterleaved) -> None:
    """The losses of packed documents add up to the losses of the documents alone."""
    packed = pack_rows([[[9, 10, 11], ["image", 12, 13], [14, "image", 15]]])
    alone = [pack_rows([[document]]) for document in ([9, 10, 11], ["image", 12, 13], [14, "image", 15])]
    alone[1] = select(alone[1], pixel_values=packed.pixel_values[:1])
    alone[2] = select(alone[2], pixel_values=packed.pixel_values[1:])
    total = sum(model(batch).text_loss_sum for batch in alone)
    torch.testing.assert_close(model(packed).text_loss_sum, total, rtol=1e-5, atol=1e-5)


def test_padding_does_not_matter(model: MMInterleaved) -> None:
    short = pack_rows([[[9, "draw"]]])
    padded = pack_rows([[[9, "draw"]], [[9] * 20]])
    row = {name: getattr(padded, name)[:1] for name in ("input_ids", "targets", "document_ids", "position_ids")}
    images = {name: getattr(short, name) for name in ("pixel_values", "drawn_pixels")}
    padded = select(padded, **row, **images)
    assert padded.input_ids.shape[1] > short.input_ids.shape[1]
    torch.testing.assert_close(model(padded).loss, model(short).loss, rtol=1e-5, atol=1e-5)


def test_a_later_image_never_changes_an_earlier_token(model: MMInterleaved) -> None:
    batch = pack_rows([[[9, "image", 10, "image", 11]]])
    changed = select(batch, pixel_values=batch.pixel_values.clone())
    changed.pixel_values[1] = 1 - changed.pixel_values[1]
    second_begin = int(batch.image_positions[1, 1]) - 1
    only_before = batch.targets.clone()
    only_before[:, second_begin + 1 :] = -100
    losses = [model(select(b, targets=only_before)).text_loss_sum for b in (batch, changed)]
    torch.testing.assert_close(*losses, rtol=0, atol=0)
    only_after = batch.targets.clone()
    only_after[:, : second_begin + 1] = -100
    losses = [model(select(b, targets=only_after)).text_loss_sum for b in (batch, changed)]
    assert (losses[0] - losses[1]).abs() > 1e-6


def test_a_drawn_image_looks_at_the_images_before_it_and_not_at_itself(model: MMInterleaved) -> None:
    batch = pack_rows([[["image", 9, "draw"]]])
    before = model(batch).loss_image
    for index, matters in ((0, True), (1, False)):
        changed = select(batch, pixel_values=batch.pixel_values.clone())
        changed.pixel_values[index] = 1 - changed.pixel_values[index]
        difference = (model(changed).loss_image - before).abs()
        assert (difference > 1e-7) == matters


@pytest.mark.parametrize("rows", [[[[9, 10]]], [[["image"]]], [[[9, "draw"]]]], ids=["text", "image", "draw"])
def test_any_mixture_trains(model: MMInterleaved, rows: list) -> None:
    model.train()(pack_rows(rows)).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_without_targets_the_loss_is_zero_and_not_nan(model: MMInterleaved) -> None:
    batch = pack_rows([[[9, 10]]])
    output = model(select(batch, targets=torch.full_like(batch.targets, -100)))
    assert output.loss == 0


def test_every_trainable_parameter_takes_part(model: MMInterleaved) -> None:
    for block in model.visual_tokenizer.modules():
        if hasattr(block, "gamma"):
            torch.nn.init.ones_(block.gamma)
    batch = pack_rows([[["image", 9, "draw"], ["image", 9, "draw"]]])
    for key in range(1, 200):  # one image keeps its text condition, the other loses it
        *_, dropped = model.image_decoder._draw_noise(torch.tensor([0, key]), batch.pixel_values)
        if dropped.tolist() in ([True, False], [False, True]):
            break
    model.train()(select(batch, drawn_keys=torch.tensor([0, key]))).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_without_mmfs_the_rest_is_the_same(model: MMInterleaved) -> None:
    batch = pack_rows([[["image", 9, "draw"]]])
    bare = MMInterleaved(model.config.without_mmfs())
    kept = bare.state_dict().keys()
    bare.load_state_dict({name: weight for name, weight in model.state_dict().items() if name in kept})
    assert not bare.language_model.synchronizers
    assert not bare.image_decoder.unet.synchronizers
    assert (bare(batch).loss - model(batch).loss).abs() > 1e-6
    for synchronizer in model.language_model.synchronizers:
        torch.nn.init.zeros_(synchronizer.gate)
    for synchronizer in model.image_decoder.unet.synchronizers:
        torch.nn.init.zeros_(synchronizer.conv.weight)
    torch.testing.assert_close(bare(batch).loss, model(batch).loss)


def test_bank_order_is_what_connects_images_and_tokens(model: MMInterleaved) -> None:
    batch = pack_rows([[["image", 9]], [["image", 10]]])
    swapped = select(batch, pixel_values=batch.pixel_values.flip(0))
    assert (model(batch).loss_text - model(swapped).loss_text).abs() > 1e-7


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
    torch.testing.assert_close(loaded(batch).loss, model(batch).loss, rtol=0, atol=0)
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


def test_a_model_to_be_read_is_not_filled_first() -> None:
    """Large weights are zeros that were never written; what is computed is there."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(1024, 1024), nn.Linear(2, 2)
            self.register_buffer("table", torch.arange(4).float(), persistent=False)

    before = resident_bytes()
    found = [unwritten(Wide) for _ in range(32)]
    assert resident_bytes() - before < 32 * 2**20  # of 128 MiB
    assert found[0].wide.weight.shape == (1024, 1024)
    assert found[0].narrow.weight.abs().sum() > 0
    assert found[0].table.tolist() == [0, 1, 2, 3]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


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


def test_it_reads_and_draws_pictures_that_are_no_squares(model: MMInterleaved, tmp_path: Path) -> None:
    """Read 16 x 32 and drawn 32 x 48 pixels, (height, width)."""
    config = MMInterleavedConfig.tiny()
    vision = dataclasses.replace(config.vision, image_size=(16, 32))
    config = dataclasses.replace(
        config, vision=vision, image_decoder=dataclasses.replace(config.image_decoder, image_size=(32, 48))
    )
    assert MMInterleavedConfig.from_dict(config.to_dict()).image_decoder.picture_shape == (32, 48)
    model.save_pretrained(tmp_path)  # the same weights fit
    wide = MMInterleaved.from_pretrained(tmp_path, config=config)
    options = {"mode": "image", "max_new_images": 2, "num_inference_steps": 1}
    drawn = wide.generate(["a", Image.new("RGB", (64, 32), "red")], **options)
    assert [picture.size for picture in drawn] == [(48, 32), (48, 32)]

    batch = pack_rows(ROWS)
    shaped = {"pixel_values": torch.rand(len(batch.pixel_values), 3, 16, 32)}
    shaped["drawn_pixels"] = torch.rand(len(batch.drawn), 3, 32, 48)
    output = wide(dataclasses.replace(batch, **shaped))
    assert output.num_drawn == len(batch.drawn) > 0
    output.loss.backward()
    assert output.loss.isfinite()
