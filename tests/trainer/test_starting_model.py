"""The model that a run starts with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import normalizers

from models import MMInterleaved
from models.lora_config import LoraConfig
from tiny_snapshots import like, write_clip, write_diffusion, write_language_model
from trainer.config import PartsConfig, TrainConfig
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.errors import UsageError
from trainer.pretrain import main
from trainer.recipes import tiny
from trainer.starting_model import make_model
from whole_runs import steps


def on_a_corpus(manifest: str = "somewhere") -> TrainConfig:
    corpus = CorpusConfig({"captions": SourceConfig(manifest)}, num_rows=1, row_tokens=96)
    base = tiny()
    return replace(base, corpus=corpus, encoder_pretraining=replace(base.encoder_pretraining, num_steps=0), num_steps=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    """A model of the emoji world's tokenizer with the settings of `tiny`."""
    directory = tmp_path_factory.mktemp("saved") / "model"
    make_model(tiny()).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> PartsConfig:
    folder = tmp_path_factory.mktemp("parts")
    return PartsConfig(
        language_model=str(write_language_model(folder / "lm")),
        vision_encoder=str(write_clip(folder / "clip")),
        image_decoder=str(write_diffusion(folder / "sd")),
    )


def test_a_run_begins_with_pre_trained_parts_and_ends_with_a_model(parts, shards, tmp_path, capsys):
    captions = shards.manifest(shards.pairs("captions.tar", [f"a snail with number {n}" for n in range(8)]))
    config = replace(
        on_a_corpus(captions), model=like(gate=0.3), parts=parts, frozen=["vision_encoder", "language_model", "vae"]
    )
    start = make_model(config)
    options = [
        f"--parts.{name} {getattr(parts, name)}" for name in ("language_model", "vision_encoder", "image_decoder")
    ]
    options += [
        "--frozen ['vision_encoder','language_model','vae']",
        f"--corpus.sources {{'c':{{'manifest':'{captions}'}}}}",
    ]
    options += ["--corpus.num_rows 1", "--corpus.row_tokens 96", "--encoder_pretraining.num_steps 0", "--num_steps 2"]
    out = tmp_path / "run"
    arguments = [word for option in options for word in option.split(" ", 1)]
    assert main(["tiny", *arguments, "--out", str(out)]) == 0, capsys.readouterr().err
    trained = MMInterleaved.from_pretrained(out / "model")
    assert trained.config.begin_of_image_id == start.config.begin_of_image_id != tiny().model.begin_of_image_id
    assert trained.processor.encode_text("a snail") == start.processor.encode_text("a snail")
    before, after = start.state_dict(), trained.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(("language_model.host.", "image_decoder.codec.vae.")) for name in moved)
    assert any(name.startswith("image_decoder.unet.host.") for name in moved)


def test_another_size_of_images_fits_the_same_weights(saved):
    base = tiny()
    larger = replace(base.model, visual_tokenizer=replace(base.model.visual_tokenizer, image_size=(64, 64)))
    model = make_model(replace(base, init=saved, model=larger))
    source = MMInterleaved.from_pretrained(saved)
    assert (model.processor.height, model.config.image_size) == (64, (64, 64))
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_the_tokenizer_comes_with_the_weights_unless_the_corpus_has_one(saved, tmp_path):
    source = MMInterleaved.from_pretrained(saved)
    source.processor.tokenizer.normalizer = normalizers.Replace("snailish", "snail")
    source.save_pretrained(tmp_path / "other")
    model = make_model(replace(on_a_corpus(), init=str(tmp_path / "other")))
    assert model.processor.encode_text("snailish") == model.processor.encode_text("snail")


def test_frozen_parts_and_adapters(saved):
    pytest.importorskip("peft")
    config = replace(tiny(), init=saved, frozen=["image_decoder"], lora=LoraConfig(rank=2, merge=False))
    names = {name for name, parameter in make_model(config).named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("image_decoder.") for name in names)
    in_host = {name for name in names if name.startswith("language_model.host.")}
    assert in_host
    assert all(".lora_" in name for name in in_host)


def test_what_cannot_be_is_told(saved, parts, tmp_path):
    base = tiny()
    with pytest.raises(UsageError, match="parts are given, with no corpus"):
        replace(base, parts=parts)
    with pytest.raises(UsageError, match="parts are given, with init"):
        replace(on_a_corpus(), parts=parts, init=saved)
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        make_model(replace(base, init=str(tmp_path)))
    missing = replace(parts, language_model=str(tmp_path))
    with pytest.raises(UsageError, match=f"{tmp_path} has no config.json"):
        make_model(replace(on_a_corpus(), parts=missing, model=like()))
    smaller = replace(base.model, visual_tokenizer=replace(base.model.visual_tokenizer, num_visual_tokens=3))
    with pytest.raises(UsageError, match=r"visual_tokenizer\.num_visual_tokens: 2 -> 3"):
        make_model(replace(base, init=saved, model=smaller))


def test_init_starts_from_the_weights(finished, tmp_path, capsys):
    out = tmp_path / "continued"
    options = ("--encoder_pretraining.num_steps", "0", "--num_steps", "1", "--optim.lr", "1e-12")
    assert main(["tiny", "--out", str(out), "--init", str(finished / "model"), *options]) == 0
    before, after = (load_file(run / "model" / "model.safetensors") for run in (finished, out))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-9)
    capsys.readouterr()
    options = (*options, "--model.language_model.mmfs_every", "1")
    assert main(["tiny", "--out", str(tmp_path / "x"), "--init", str(finished / "model"), *options]) == 2
    assert "(there -> here): language_model.mmfs_every: 2 -> 1" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "x"), "--init", str(tmp_path)]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_parts_are_a_start_for_models_that_differ_elsewhere(tmp_path, capsys):
    encoder, out = tmp_path / "encoder", tmp_path / "bare"
    assert main(["tiny", "--out", str(encoder), "--num_steps", "0"]) == 0
    assert {step["phase"] for step in steps(encoder)} == {"encoder"}
    options = ("--encoder_pretraining.num_steps", "0", "--num_steps", "1", "--optim.lr", "1e-12")
    without = ("--model.language_model.mmfs", "null", "--model.image_decoder.mmfs", "null")
    init = ("--init", str(encoder / "model"))
    parts = ("--init_components", "[visual_tokenizer, language_model]")
    assert main(["tiny", "--out", str(out), *options, *init, *parts, "--model.image_decoder.mmfs", "null"]) == 0
    origin = f"from random weights and visual_tokenizer, language_model of {encoder / 'model'}"
    assert origin in capsys.readouterr().out
    before, after = (load_file(run / "model" / "model.safetensors") for run in (encoder, out))
    taken = {name for name in before if name.startswith(("visual_tokenizer.", "language_model.", "begin_of_image"))}
    assert "begin_of_image" in taken
    for name in taken:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)
    drawing = "image_decoder.context_proj.weight"  # has no constant start that both would share
    assert not torch.equal(after[drawing], before[drawing])
    assert main(["tiny", "--out", str(tmp_path / "x"), *options, *without, *init, *parts]) == 2
    assert "whose language_model has another shape" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "x"), *options, "--init", str(tmp_path), *parts]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "x"), *options, *parts]) == 2
    assert "init is null; expected a model in init" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
