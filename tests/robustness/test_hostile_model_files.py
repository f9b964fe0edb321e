"""Model directories, snapshots and settings from somebody else: refused in a sentence that names the file, soon, and
nothing in them is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from malicious import Malicious
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from tiny_snapshots import like, write_clip, write_diffusion, write_language_model, write_text_encoder
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.errors import UsageError
from trainer.options.parser import parse
from trainer.recipes import ALL_RECIPES

SECONDS = 20
"""What a refusal may take on a busy machine; a hang took minutes."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory."""
    torch.manual_seed(0)
    config = MMInterleavedConfig.tiny()
    tokenizer = Tokenizer.from_str(load_tokenizer().to_str())
    folder = tmp_path_factory.mktemp("hostile") / "model"
    MMInterleaved(config, MMInterleavedProcessor(tokenizer, image_size=config.image_size)).save_pretrained(folder)
    return folder


@pytest.fixture
def model_dir(original: Path, tmp_path: Path) -> Path:
    """A copy of it without digests, which would refuse any change."""
    copy = Path(shutil.copytree(original, tmp_path / "model"))
    (copy / "SHA256SUMS").unlink()
    return copy


def refused(directory: Path) -> str:
    """What is said of a directory, within a short time."""
    begun = time.monotonic()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        MMInterleaved.from_pretrained(directory)
    assert time.monotonic() - begun < SECONDS
    assert type(caught.value) in (ValueError, FileNotFoundError)
    return str(caught.value)


def set_in(file: Path, place: str, value: Any) -> None:
    """Change one value of a JSON file, by its dotted place."""
    content = json.loads(file.read_text())
    *above, last = place.split(".")
    holder = content
    for name in above:
        holder = holder[name]
    holder[last] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("language_model.transformer.num_hidden_layers", 10**9, "num_hidden_layers 1000000000; expected whole numbers"),
        ("visual_tokenizer.vision_encoder.num_hidden_layers", 10**7, "num_hidden_layers 10000000"),
        ("visual_tokenizer.resampler_layers", 10**9, "resampler_layers is 1000000000, and the weights have"),
        ("visual_tokenizer.adapter_blocks", 10**8, "adapter_blocks is 100000000"),
        ("image_decoder.unet.layers_per_block", 10**8, "layers_per_block 100000000"),
        ("image_decoder.unet.layers_per_block", [1, 10**8], "layers_per_block"),
        ("image_decoder.scheduler.num_train_timesteps", 10**12, "num_train_timesteps 1000000000000"),
        ("language_model.transformer.hidden_size", 2**40, "hidden_size"),
        ("language_model.transformer.hidden_size", 2**20, "does not"),
        ("language_model.transformer.num_attention_heads", 0, "num_attention_heads 0; expected whole numbers from 1"),
        ("language_model.transformer.hidden_size", -32, "hidden_size -32"),
        ("language_model.transformer.vocab_size", "many", "vocab_size 'many'"),
        ("language_model.transformer.max_position_embeddings", -1, "max_position_embeddings -1"),
        ("language_model.transformer.model_type", "no_such", "holds a model of type 'no_such'"),
        ("language_model.transformer", {}, "holds a model of type None|KeyError"),
        ("language_model.mmfs.num_heads", 0, "num_heads 0; expected 1 or more"),
        ("language_model.mmfs.num_heads", True, "num_heads True; expected a whole number"),
        ("language_model.mmfs.max_age", "4", "max_age '4'; expected a whole number"),
        ("language_model.mmfs_levels", [3, 1], "mmfs_levels"),
        ("language_model.gate_init", float("nan"), "gate_init nan; expected a number"),
        ("image_decoder.image_size", [32, "32"], "image_size"),
        ("image_decoder.text_drop", 1.5, "expected a share from 0 to 1"),
        ("image_decoder.timestep_bias_portion", -0.1, "expected a share from 0 to 1"),
        ("image_decoder.timestep_bias_multiplier", 0, "expected a number above 0"),
        ("visual_tokenizer.image_std", [0.0, 1.0, 1.0], "expected numbers above 0"),
        ("begin_of_image_id", 10**6, "begin_of_image_id is 1000000; expected one of the vocabulary's 1024"),
        ("eos_token_id", -1, "eos_token_id -1"),
        ("image_token_id", 3, "begin_of_image_id and image_token_id are both 3"),
        ("image_decoder", [1, 2], "image_decoder is \\[1, 2\\]; expected the settings of a ImageDecoderConfig"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(model_dir: Path, place: str, value: Any, words: str) -> None:
    set_in(model_dir / "config.json", place, value)
    told = refused(model_dir)
    assert str(model_dir) in told
    assert re.search(words, told), told


@pytest.mark.parametrize("content", ["[]", "3", "", "null", "\x00", "[" * 100_000, '"text"', '{"a": 1e999}'])
@pytest.mark.parametrize("name", ["config.json", "processor.json", "tokenizer.json", "model.safetensors.index.json"])
def test_files_of_another_form_are_refused(model_dir: Path, name: str, content: str) -> None:
    (model_dir / name).write_text(content)
    if "index" in name:
        (model_dir / "model.safetensors").unlink()
    assert name in refused(model_dir)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": "../../../etc/passwd"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "pytorch_model.bin"}},
        {"weight_map": {"a": "a\0b.safetensors"}},
    ],
)
def test_an_index_names_weights_beside_it(model_dir: Path, content: Any) -> None:
    (model_dir / "model.safetensors").unlink()
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(content))
    assert "model.safetensors.index.json" in refused(model_dir)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"image_size": 0},
        {"image_size": [32]},
        {"image_size": "32"},
        {"image_size": 32.0},
        {"image_size": True},
        {"image_size": 64},
        {"image_size": 32, "fit": "stretch"},
        {"image_size": 32, "more": 1},
    ],
)
def test_a_processor_that_is_none_or_of_another_model_is_refused(model_dir: Path, content: Any) -> None:
    (model_dir / "processor.json").write_text(json.dumps(content))
    assert "processor.json" in refused(model_dir)


def test_a_tokenizer_neither_cuts_nor_pads(model_dir: Path) -> None:
    file = model_dir / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(file))
    processor = MMInterleaved.from_pretrained(model_dir).processor
    assert processor is not None
    assert 2 < len(processor.encode_text("a snail left of a rocket")) < 50


def test_a_tokenizer_of_a_larger_model_is_refused(model_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.add_tokens([f"more{i}" for i in range(3)])
    tokenizer.save(str(model_dir / "tokenizer.json"))
    assert "tokenizer.json has a token 1026, and the model knows 1024" in refused(model_dir)


def test_whole_numbers_are_no_weights(model_dir: Path) -> None:
    file = model_dir / "model.safetensors"
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(file).items()}, file)
    assert "is torch.int8; expected numbers like torch.float32" in refused(model_dir)


def test_a_flipped_bit_of_a_saved_model_is_found(original: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "processor.json"):
        copy = Path(shutil.copytree(original, tmp_path / name))
        content = bytearray((copy / name).read_bytes())
        content[-len(content) // 3] ^= 1
        (copy / name).write_bytes(content)
        assert f"'{name}' is missing or without the SHA-256 that SHA256SUMS lists" in refused(copy)
    (copy / "SHA256SUMS").write_text("0" * 64 + "  ../../x\n")
    assert "SHA256SUMS is damaged" in refused(copy)


class Killed(BaseException):
    """The process ends here."""


def test_a_killed_save_is_the_earlier_model_or_none(original: Path, tmp_path: Path) -> None:
    before = MMInterleaved.from_pretrained(original)
    after = MMInterleaved.from_pretrained(original)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(1)
    replace, kills, outcomes = os.replace, 0, set()
    while True:
        folder = tmp_path / str(kills)
        before.save_pretrained(folder)
        left = [kills]

        def killed(*arguments: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            replace(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", killed)
            try:
                after.save_pretrained(folder)
            except Killed:
                kills += 1
            else:
                break
        try:
            found = MMInterleaved.from_pretrained(folder)
        except ValueError as error:
            outcomes.add("refused" if "is not as it was saved" in str(error) else str(error))
        else:
            assert torch.equal(found.begin_of_image, before.begin_of_image)
            outcomes.add("before")
        shutil.rmtree(folder)
    assert kills >= 4
    assert outcomes == {"before", "refused"}


@pytest.mark.parametrize("settings", [{"model_type": "clip_vision_model"}, {}])
def test_a_configuration_that_names_a_program_asks_nobody(
    model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """transformers would ask on the terminal whether to run the code that `auto_map` names."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    file = model_dir / "config.json"
    transformer = json.loads(file.read_text())["language_model"]["transformer"]
    program = {"auto_map": {"AutoModelForCausalLM": "somebody/repository--code.Model"}, "attn_implementation": "a/b"}
    set_in(file, "language_model.transformer", transformer | program | settings)
    set_in(file, "visual_tokenizer.vision_encoder._attn_implementation", "somebody/kernel")
    if settings:
        assert "of type 'clip_vision_model'" in refused(model_dir)
    else:
        assert MMInterleaved.from_pretrained(model_dir).language_model.host.config._attn_implementation == "sdpa"
    assert "[y/N]" not in "".join(capsys.readouterr())


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The parts of a model as their makers store them."""
    folder = tmp_path_factory.mktemp("snapshots")
    parts = {name: folder / name for name in ("vision_encoder", "language_model", "image_decoder")}
    write_clip(parts["vision_encoder"])
    write_language_model(parts["language_model"])
    write_diffusion(parts["image_decoder"])
    write_text_encoder(parts["image_decoder"])
    return parts


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ("vision_encoder", "pytorch_model.bin"),
        ("language_model", "pytorch_model.bin"),
        ("image_decoder", "unet/diffusion_pytorch_model.bin"),
        ("image_decoder", "vae/diffusion_pytorch_model.bin"),
        ("image_decoder", "text_encoder/pytorch_model.bin"),
    ],
)
def test_a_pickle_among_weights_is_not_run(snapshots: dict[str, Path], tmp_path: Path, part: str, place: str) -> None:
    left_behind = tmp_path / "left behind"
    copies = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in snapshots.items()}
    file = copies[part] / place
    for weights in file.parent.glob("*.safetensors"):
        weights.unlink()
    torch.save({"weight": Malicious(left_behind)}, file)
    with pytest.raises((ValueError, FileNotFoundError)):
        MMInterleaved.from_parts(
            **{name: str(folder) for name, folder in copies.items()}, like=like(), negative_context="empty_prompt"
        )
    assert not left_behind.exists()
    torch.load(file, weights_only=False)
    assert left_behind.exists(), "the pickle of this test does nothing"


def test_an_adapter_does_not_lead_to_another_model(snapshots: dict[str, Path], tmp_path: Path) -> None:
    copies = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in snapshots.items()}
    (copies["language_model"] / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    with pytest.raises(ValueError, match="holds an adapter of another model"):
        MMInterleaved.from_parts(**{name: str(folder) for name, folder in copies.items()}, like=like())


def in_unet(value: Any) -> dict[str, Any]:
    return {"model": {"image_decoder": {"unet": {"x": value}}}}


@pytest.mark.parametrize(
    "settings",
    [
        in_unet({"class_path": "stranger.Program", "init_args": {"a": 1}}),
        in_unet([{"class_path": "stranger.Program"}]),
        {"model": {"language_model": {"transformer": {"class_path": "stranger.Program"}}}},
        {"optim": {"class_path": "stranger.Program"}},
        {"optim": [{"class_path": "stranger.Program"}]},
        {"corpus": {"sources": {"a": {"class_path": "stranger.Program"}}}},
        {"lora": {"class_path": "stranger.Program"}},
    ],
)
def test_settings_import_and_make_no_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    left_behind = tmp_path / "left behind"
    program = f"open({str(left_behind)!r}, 'w').close()\nclass Program:\n    def __init__(self, a: int = 0): pass\n"
    (tmp_path / "stranger.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    with suppress(UsageError):
        parse(["tiny", "--config", str(file)], ALL_RECIPES, "tiny")
    assert not left_behind.exists()
    assert "stranger" not in sys.modules


def test_settings_run_no_tag_of_yaml(tmp_path: Path) -> None:
    left_behind = tmp_path / "left behind"
    file = tmp_path / "config.yaml"
    file.write_text(f"!!python/object/apply:os.system ['touch {left_behind}']")
    with pytest.raises(UsageError, match="could not determine a constructor"):
        parse(["tiny", "--config", str(file)], ALL_RECIPES, "tiny")
    assert not left_behind.exists()
