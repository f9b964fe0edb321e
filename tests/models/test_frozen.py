"""What is frozen, against the list of the released checkpoint."""

import lzma
from pathlib import Path

import pytest
import torch

from models import MMInterleaved, MMInterleavedConfig
from models.frozen import PAPER_FROZEN, RELEASE_FROZEN, freeze
from models.released.names import NameTable, recomputed, rows_of

KEYS = Path(__file__).parents[1] / "data" / "released_state_dict_keys.tsv.xz"


def test_what_the_release_froze() -> None:
    """The third column of the list says "train", "frozen" or "buffer" of each released tensor."""
    with torch.device("meta"):
        model = MMInterleaved(MMInterleavedConfig.released_13b())
    freeze(model, RELEASE_FROZEN)
    table, left_out = NameTable(rows_of(model)), recomputed(model, device="meta")
    lines = [line.split("\t") for line in lzma.decompress(KEYS.read_bytes()).decode().splitlines()]
    expected = {table.ours(name)[0]: use == "train" for name, _, use in lines if name not in left_out}
    assert {name: p.requires_grad for name, p in model.named_parameters()} == expected


def test_the_papers_parts_and_no_others() -> None:
    model = MMInterleaved(MMInterleavedConfig.tiny())
    freeze(model)
    frozen = {".".join(name.split(".")[:3]) for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        "visual_tokenizer.adapter.vision_model",
        *(f"language_model.host.{part}" for part in ("model", "lm_head")),
        "image_decoder.codec.vae",
    }
    assert not any("null_value" in name for name, p in model.named_parameters() if not p.requires_grad)
    assert RELEASE_FROZEN[:3] == PAPER_FROZEN


def test_all_but_what_draws() -> None:
    model = MMInterleaved(MMInterleavedConfig.tiny())
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    freeze(model, ["all_but_image_decoder"])
    still_learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert still_learned == {name for name in learned if name.startswith("image_decoder.")}
    assert len(still_learned) > 100


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="no component 'unet' to freeze; expected some of vision_encoder, "):
        freeze(torch.nn.Linear(1, 1), ["unet"])
