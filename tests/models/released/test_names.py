"""The table of released names: complete, unambiguous, and clear about what it does not know."""

import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import MMInterleaved, MMInterleavedConfig
from models.released.names import NameTable, from_released, our_layout, recomputed, released_layout, rows_of

KEYS = Path(__file__).parents[2] / "data" / "released_state_dict_keys.tsv.xz"


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    with torch.device("meta"):
        return MMInterleaved(MMInterleavedConfig.released_13b())


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    """The released state dict without its numbers."""
    lines = lzma.decompress(KEYS.read_bytes()).decode().splitlines()
    names_and_shapes = [line.split("\t")[:2] for line in lines]
    return {name: torch.empty(json.loads(shape), device="meta") for name, shape in names_and_shapes}


def test_every_released_tensor_has_its_place_and_nothing_is_left_over(model, checkpoint):
    assert len(checkpoint) == 2659
    table, state = NameTable(rows_of(model)), model.state_dict()
    ours_to_compute = recomputed(model, device="meta")
    assert {name: list(t.shape) for name, t in ours_to_compute.items()} == {
        name: list(checkpoint[name].shape) for name in ours_to_compute
    }
    taken = {}
    for name, tensor in checkpoint.items():
        if name in ours_to_compute:
            continue
        ours, layout = table.ours(name)
        assert table.released(ours) == (name, layout)
        same_shape = our_layout(name, tensor, layout, state[ours].shape)
        mmfs = model.config.language_model.mmfs
        assert released_layout(name, same_shape, layout, mmfs.num_points).shape == tensor.shape
        assert ours not in taken, f"{taken[ours]} and {name} both become {ours}"
        taken[ours] = name
    assert taken.keys() == state.keys()
    assert len(taken) == 2659 - len(ours_to_compute) == 2659 - 17


def test_the_released_sizes(model):
    """Numbers of parameters that the release's own code counts."""
    parts = {
        "language model's MMFS": (model.language_model.synchronizers, 363.0),
        "U-Net": (model.image_decoder.unet.host, 865.9),
        "visual resampler": (model.visual_tokenizer.resampler.layers, 101.7),
        "context resampler": (model.image_decoder.resampler.layers, 23.2),
        "context projection": (model.image_decoder.context_proj, 26.2),
    }
    for name, (part, millions) in parts.items():
        count = sum(p.numel() for p in part.parameters()) / 1e6
        assert abs(count - millions) < 0.02 * millions, f"{name}: {count:.1f} M"
    assert model.visual_tokenizer.spatial_shapes == ((64, 64), (32, 32), (16, 16), (8, 8))


def test_a_missing_and_an_unknown_tensor_are_named(model, checkpoint):
    weights = dict(checkpoint)
    del weights["mm_decoder.norm.weight"]
    weights["mm_decoder.layers.40.mlp.up_proj.weight"] = torch.empty(13824, 5120, device="meta")
    with pytest.raises(ValueError, match=r"lacks 1 tensors \['mm_decoder.norm.weight'\].*1 .*layers.40.mlp.up_proj"):
        from_released(weights, model)
    with pytest.raises(ValueError, match=r"lacks 0 tensors \[\] and has 1 .*\['optimizer.step'\]"):
        from_released({**checkpoint, "optimizer.step": torch.empty(1)}, model)
    with pytest.raises(ValueError, match=r"optimizer\.step of the released checkpoint is not in the table of names"):
        NameTable(rows_of(model)).ours("optimizer.step")
    with pytest.raises(ValueError, match=r"mm_decoder.norm.weight is \[5121\], which does not become \[5120\]"):
        from_released({**checkpoint, "mm_decoder.norm.weight": torch.empty(5121, device="meta")}, model)


def test_a_model_that_the_release_has_no_names_for_is_refused():
    tiny = MMInterleavedConfig.tiny()
    with pytest.raises(ValueError, match=r'placed "up".*start from MMInterleavedConfig.released_13b'):
        rows_of(MMInterleaved(tiny))
    bare = replace(tiny, language_model=replace(tiny.language_model, mmfs=None))
    with pytest.raises(ValueError, match="in the language model: False"):
        rows_of(MMInterleaved(bare))


def test_layouts_there_and_back():
    ages = torch.randn(4, 3)
    released = released_layout("x", ages, "ages", 0)
    assert released.shape == (5, 3)
    assert torch.equal(our_layout("x", released, "ages", ages.shape), ages)

    logits = torch.randn(2 * 3 * 5, 4)  # heads * levels * points
    released = released_layout("x", logits, "slots", 5).view(2, 3, 6, 4)
    assert torch.equal(released[:, :, :5], logits.view(2, 3, 5, 4))
    assert released[:, :, 5].abs().max() == 0
    assert torch.equal(our_layout("x", released.flatten(0, 2), "slots", logits.shape), logits)
