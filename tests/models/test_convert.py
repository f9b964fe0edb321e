"""The converter: the whole circle with the release's own names, what it refuses, what survives an interruption, and
what it takes from snapshots.

The weights are random and the widths tiny; names and structure are the release's.
"""

import json
import lzma
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from models import MMInterleaved, MMInterleavedConfig, tensor_files
from models.convert import main
from models.directory_lock import directory_lock
from models.released.conversion import Converter
from models.released.names import to_released

KEYS = Path(__file__).parents[1] / "data" / "released_state_dict_keys.tsv.xz"
WORDS = 32
"""Of the language model before it got two new tokens."""


def narrow_config() -> MMInterleavedConfig:
    """The release's layers and names, with tiny widths."""
    released = MMInterleavedConfig.released_13b()
    lm, drawing = released.language_model, released.image_decoder
    narrow_clip = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    narrow_lm = {"vocab_size": WORDS + 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    narrow_unet = {"block_out_channels": (8, 16, 32, 32), "cross_attention_dim": 16, "attention_head_dim": (2, 2, 2, 2)}
    return replace(
        released,
        pad_token_id=WORDS - 1,
        begin_of_image_id=WORDS,
        image_token_id=WORDS + 1,
        visual_tokenizer=replace(
            released.visual_tokenizer,
            vision_encoder={**released.visual_tokenizer.vision_encoder, **narrow_clip},
            num_visual_tokens=2,
            qformer=replace(released.visual_tokenizer.qformer, ffn_dim=24),
            resampler_dim=24,
            prior_channels=4,
        ),
        language_model=replace(
            lm, transformer={**lm.transformer, **narrow_lm}, mmfs=replace(lm.mmfs, value_dim=16, max_age=3)
        ),
        image_decoder=replace(
            drawing,
            unet={**drawing.unet, **narrow_unet, "norm_num_groups": 4},
            vae={**drawing.vae, "block_out_channels": (4, 8, 16, 16), "norm_num_groups": 2},
            num_context_tokens=3,
            qformer=replace(drawing.qformer, ffn_dim=24),
            resampler_heads=2,
            mmfs=replace(drawing.mmfs, value_dim=16, max_age=2),
            mmfs_position_table=8,
        ),
    )


def short_config() -> MMInterleavedConfig:
    """The same with few layers."""
    narrow = narrow_config()
    lm, drawing = narrow.language_model, narrow.image_decoder
    return replace(
        narrow,
        visual_tokenizer=replace(
            narrow.visual_tokenizer,
            vision_encoder={**narrow.visual_tokenizer.vision_encoder, "num_hidden_layers": 4},
            resampler_layers=2,
        ),
        language_model=replace(lm, transformer={**lm.transformer, "num_hidden_layers": 5}),
        image_decoder=replace(
            drawing,
            unet={
                **drawing.unet,
                "block_out_channels": (8, 16),
                "attention_head_dim": (2, 2),
                "layers_per_block": 1,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            },
            vae={
                **drawing.vae,
                "block_out_channels": (4, 8),
                "layers_per_block": 1,
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
            },
        ),
    )


def half_precision_model(config: MMInterleavedConfig) -> MMInterleaved:
    """A model with numbers that half precision holds."""
    torch.manual_seed(0)
    model = MMInterleaved(config).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_((tensor + 0.1 * torch.randn_like(tensor)).half())
    return model


def save_released(directory: Path, weights: dict[str, Tensor], num_files: int) -> None:
    """Half-precision weights in files of about the same number of tensors, every name in whichever comes next."""
    directory.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    for i in range(num_files):
        part = {name: weights[name] for name in names[i::num_files]}
        half = {name: t.half() if t.is_floating_point() else t for name, t in part.items()}
        torch.save(half, directory / f"pytorch_model-{i + 1:05d}-of-{num_files:05d}.bin")


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    return half_precision_model(short_config())


@pytest.fixture(scope="module")
def config_file(model, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("config") / "config.json"
    model.config.save(file)
    return file


@pytest.fixture(scope="module")
def pristine(model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("released")
    save_released(directory, to_released(model), num_files=2)
    return directory


@pytest.fixture
def source(pristine, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(pristine, tmp_path / "source")


def assert_same_weights(actual: MMInterleaved, expected: MMInterleaved) -> None:
    state, other = actual.state_dict(), expected.state_dict()
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name


def edit(file: Path, change) -> None:
    """Change the dictionary in a PyTorch file."""
    weights = {name: tensor.clone() for name, tensor in torch.load(file).items()}
    change(weights)
    torch.save(weights, file)


def test_the_whole_circle_with_the_releases_names(tmp_path, capsys):
    model = half_precision_model(narrow_config())
    released = to_released(model)
    lines = lzma.decompress(KEYS.read_bytes()).decode().splitlines()
    assert released.keys() == {line.split("\t")[0] for line in lines}
    save_released(tmp_path / "source", released, num_files=3)
    model.config.save(tmp_path / "narrow.json")

    out = tmp_path / "out"
    command = [str(tmp_path / "source"), "--out", str(out), "--config", str(tmp_path / "narrow.json")]
    assert main([*command, "--max_shard_gb", "0.0005", "--verify"]) == 0
    printed = capsys.readouterr().out
    assert f"{2659 - 17} tensors are those of" in printed
    assert "17 tensors that the model computes itself are left out" in printed
    assert " GB, " in printed
    assert " s left" in printed

    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    assert shards == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    beside = {"config.json", "conversion.json", "model.safetensors.index.json", "SHA256SUMS"}
    assert {path.name for path in out.iterdir()} == {*shards, *beside}
    size = 0
    for shard in shards:
        with safe_open(out / shard, "pt") as file:
            assert sorted(file.keys()) == sorted(name for name, at in index["weight_map"].items() if at == shard)
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
            sizes = [2 * file.get_tensor(name).numel() for name in file.keys()]  # noqa: SIM118
        assert sum(sizes) <= 500_000 or len(sizes) == 1
        size += sum(sizes)
    assert size == index["metadata"]["total_size"]
    assert_same_weights(MMInterleaved.from_pretrained(out), model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_type_that_was_asked_for(model, pristine, tmp_path, dtype):
    Converter(pristine, tmp_path / "out", config=model.config, dtype=dtype, progress=lambda line: None).run()
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
    assert stored.keys() == expected.keys()
    for name, tensor in stored.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    read = MMInterleaved.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in read.parameters()} == {torch.bfloat16}
    assert all(torch.equal(tensor, expected[name].to(tensor.dtype)) for name, tensor in read.state_dict().items())


FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
NORM = "mm_decoder.norm.weight"


def the_file_with(source: Path, name: str) -> Path:
    return next(file for file in sorted(source.glob("*.bin")) if name in torch.load(file, mmap=True))


def cut_off(source: Path) -> None:
    whole = (source / SECOND).read_bytes()
    (source / SECOND).write_bytes(whole[: len(whole) // 2])


def make_integer(source: Path) -> None:
    edit(the_file_with(source, NORM), lambda weights: weights.update({NORM: weights[NORM].to(torch.int8)}))


def take_away(source: Path) -> None:
    edit(the_file_with(source, NORM), lambda weights: weights.pop(NORM))


def add_unknown(source: Path) -> None:
    edit(source / FIRST, lambda weights: weights.update({f"optimizer.{i}": torch.zeros(1) for i in range(5)}))


def make_longer(source: Path) -> None:
    edit(the_file_with(source, NORM), lambda weights: weights.update({NORM: torch.zeros(33)}))


def add_code(source: Path) -> None:
    torch.save({"config": short_config()}, source / "training_args.bin")


def add_steps(source: Path) -> None:
    edit(source / FIRST, lambda weights: weights.update({"step": 15000}))


def save_a_list(source: Path) -> None:
    torch.save([torch.zeros(1)], source / FIRST)


def save_the_old_way(source: Path) -> None:
    torch.save({}, source / FIRST, _use_new_zipfile_serialization=False)


def leave_a_pointer(source: Path) -> None:
    (source / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def store_twice(source: Path) -> None:
    shutil.copy(source / FIRST, source / "again.bin")


def other_positions(source: Path) -> None:
    name = "visual_tokenizer.pos_embed"
    edit(the_file_with(source, name), lambda weights: weights[name].mul_(2))


def remove_all(source: Path) -> None:
    for file in source.glob("*.bin"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (cut_off, rf"{SECOND} is cut off: it ends after \d+ bytes"),
        (make_integer, rf"{NORM} in .* is int8; expected a floating-point type"),
        (take_away, rf"lacks 1 tensors \['{NORM}'\] and has 0"),
        (add_unknown, r"has 5 that the model has no place for \['optimizer.0', 'optimizer.1', 'optimizer.2'\]"),
        (make_longer, rf"{NORM} is \[33\], which does not become \[32\]"),
        (add_code, r"training_args.bin holds more than weights, and reading it would run code"),
        (add_steps, rf"{FIRST} holds 'step', a int; expected nothing but tensors"),
        (save_a_list, rf"{FIRST} holds a list; expected a dictionary of tensors"),
        (save_the_old_way, rf"{FIRST} is not a PyTorch file of version 1.6 or later"),
        (leave_a_pointer, rf"{FIRST} is a Git LFS pointer .* git lfs pull"),
        (store_twice, rf"is in again.bin and in {FIRST}; which one counts is unclear"),
        (other_positions, r"visual_tokenizer.pos_embed differs by .* from what the model computes"),
        (remove_all, r"holds no \*.bin"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_said_and_nothing_is_written(source, config_file, tmp_path, capsys, spoil, sentence):
    spoil(source)
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out), "--config", str(config_file)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(sentence, error), error
    assert not out.exists()


def test_a_missing_config_is_told(tmp_path, capsys):
    missing = tmp_path / "config.json"
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), "--config", str(missing)]) == 2
    assert f"--config is {missing}, which is not a file; expected the config.json" in capsys.readouterr().err


def test_an_out_that_cannot_be_made_is_told(pristine, config_file, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    out = tmp_path / "notes.txt" / "out"
    assert main([str(pristine), "--out", str(out), "--config", str(config_file)]) == 2
    assert f"{out}: Not a directory." in capsys.readouterr().err


def test_help_says_what_is_written(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--out DIR the directory to write; an unfinished one goes on" in " ".join(capsys.readouterr().out.split())


def test_a_directory_with_something_else_is_left_alone(pristine, config_file, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert main([str(pristine), "--out", str(out), "--config", str(config_file)]) == 2
    assert "is not empty and holds no conversion.json" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_an_interrupted_conversion_goes_on(model, pristine, config_file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = [str(pristine), "--out", str(out), "--config", str(config_file), "--max_shard_gb", "0.0005"]
    write = tensor_files.write_safetensors

    def stop_in_the_second(stream, tensors):
        if "model-00002" in Path(stream.name).name:
            stream.write(b"half of it")
            raise KeyboardInterrupt
        write(stream, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "write_safetensors", stop_in_the_second)
        assert main(command) == 130
    assert "The same command goes on from here" in capsys.readouterr().err
    (first,) = out.glob("*.safetensors*")
    assert first.name.startswith("model-00001")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        MMInterleaved.from_pretrained(out)

    # A power cut leaves what an interruption cleans up.
    (out / f"{first.name.replace('00001', '00002', 1)}.part").write_bytes(b"half of it")
    before = first.stat().st_ino
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "1 of" in printed
    assert "shards are there already" in printed
    assert first.stat().st_ino == before
    assert not list(out.glob("*.part"))
    assert_same_weights(MMInterleaved.from_pretrained(out), model)

    assert main([*command, "--dtype", "float32"]) == 2
    assert "holds another conversion: dtype is not what it was" in capsys.readouterr().err
    assert main([*command, "--verify"]) == 0


def test_verify_finds_a_changed_output_and_a_damaged_source(source, config_file, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(source), "--out", str(out), "--config", str(config_file), "--verify"]
    assert main(command) == 0
    capsys.readouterr()
    shard = sorted(out.glob("*.safetensors"))[0]
    weights = load_file(shard)
    changed = sorted(weights)[0]
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    weights[changed].view(-1)[0] += 1
    save_file(weights, shard)
    assert main(command) == 2
    assert re.search(
        rf"1 of \d+ tensors in .* differ from the source \['{re.escape(changed)}'\]", capsys.readouterr().err
    )

    data = bytearray((source / FIRST).read_bytes())
    data[len(data) // 2] ^= 1
    (source / FIRST).write_bytes(data)
    assert main(command) == 2
    assert "does not have the checksum it had" in capsys.readouterr().err


def save_snapshots(model: MMInterleaved, root: Path) -> dict[str, Path]:
    """The frozen parts as Hugging Face stores them: the language model without the new tokens, as it was before
    training; CLIP in float32; the VAE with the names of attention that old files have."""
    config = model.config
    lm = LlamaForCausalLM(LlamaConfig(**{**config.language_model.transformer, "vocab_size": WORDS}))
    ours = model.language_model.host.state_dict()
    lm.load_state_dict({name: ours[name][: len(tensor)] for name, tensor in lm.state_dict().items()})
    lm.half().save_pretrained(root / "lm", max_shard_size="50KB")

    clip = CLIPVisionModel(CLIPVisionConfig(**config.visual_tokenizer.vision_encoder))
    theirs = {**clip.state_dict(), **model.visual_tokenizer.adapter.vision_model.state_dict()}
    with torch.no_grad():
        theirs = {name: tensor * (1 + 1e-5) for name, tensor in theirs.items()}  # what rounding took away
    clip.load_state_dict(theirs)
    (root / "clip").mkdir()
    save_file({f"vision_model.{name}": tensor for name, tensor in theirs.items()}, root / "clip" / "model.safetensors")

    vae = model.image_decoder.codec.vae.state_dict()
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in vae.items():
        for now, before in names.items():
            name = name.replace(now, before)
        old[name] = tensor.contiguous()
    assert old.keys() != vae.keys()
    (root / "sd" / "vae").mkdir(parents=True)
    torch.save(old, root / "sd" / "vae" / "diffusion_pytorch_model.bin")
    return {"language_model": root / "lm", "vision_encoder": root / "clip", "image_decoder": root / "sd"}


def test_what_a_snapshot_has_is_not_stored(model, pristine, config_file, tmp_path, capsys):
    snapshots = save_snapshots(model, tmp_path / "snapshots")
    out = tmp_path / "out"
    command = [str(pristine), "--out", str(out), "--config", str(config_file), "--verify"]
    for part, directory in snapshots.items():
        command += ["--base", f"{part}={directory}"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for part in snapshots:
        assert re.search(rf"{part}: \d+ tensors are the snapshot's; 0 differ and are stored \[\]", printed)
    assert f"{len(model.state_dict())} tensors are those of" in printed

    stored = {name: t for file in out.glob("model-*.safetensors") for name, t in load_file(file).items()}
    host = "language_model.host."
    of_the_host = {name.removeprefix(host): list(t.shape) for name, t in stored.items() if name.startswith(host)}
    assert of_the_host == {"model.embed_tokens.weight": [2, 32], "lm_head.weight": [2, 32], "lm_head.bias": [34]}
    assert not [
        name for name in stored if name.startswith(("visual_tokenizer.adapter.vision_model", "image_decoder.codec"))
    ]
    assert any(name.startswith("image_decoder.unet.host") for name in stored)
    assert_same_weights(MMInterleaved.from_pretrained(out), model)

    moved = tmp_path / "moved"
    snapshots["vision_encoder"].rename(moved)
    with pytest.raises(
        FileNotFoundError, match=r"takes weights of its vision_encoder from a snapshot.*base={'vision_encoder': \.\.\.}"
    ):
        MMInterleaved.from_pretrained(out)
    assert_same_weights(MMInterleaved.from_pretrained(out, base={"vision_encoder": moved}), model)
    with pytest.raises(ValueError, match=r"base has \['clip'\]; of snapshots, .* needs those of"):
        MMInterleaved.from_pretrained(out, base={"clip": moved})

    # Saved again, the model is whole and needs no snapshot.
    MMInterleaved.from_pretrained(out, base={"vision_encoder": moved}).save_pretrained(out)
    assert_same_weights(MMInterleaved.from_pretrained(out), model)


def test_what_differs_from_a_snapshot_is_stored_and_named(model, pristine, tmp_path):
    clip = save_snapshots(model, tmp_path / "snapshots")["vision_encoder"]
    theirs = {name: tensor.clone() for name, tensor in load_file(clip / "model.safetensors").items()}
    theirs = {name.removeprefix("vision_model."): tensor for name, tensor in theirs.items()}  # as saved today
    theirs["pre_layrnorm.weight"] += 1
    theirs["pre_layrnorm.bias"] = torch.zeros(31)
    save_file(theirs, clip / "model.safetensors")
    lines: list[str] = []
    options = {"config": model.config, "base": {"vision_encoder": clip}, "progress": lines.append}
    converter = Converter(pristine, tmp_path / "out", **options)
    norm = "visual_tokenizer.adapter.vision_model.pre_layrnorm"
    assert converter.conversion.differing == {"vision_encoder": [f"{norm}.bias", f"{norm}.weight"]}
    assert any("2 differ and are stored" in line and f"{norm}.weight" in line for line in lines)
    converter.run()
    assert_same_weights(MMInterleaved.from_pretrained(tmp_path / "out"), model)
    # What was found is remembered: the same command does not compare again.
    again = Converter(pristine, tmp_path / "out", **options)
    assert again.conversion == converter.conversion
    assert again.base == converter.base
    assert sum("compared with" in line for line in lines) == 2

    save_file({name: tensor + 1 for name, tensor in theirs.items()}, clip / "model.safetensors")
    with pytest.raises(ValueError, match=r"none with the same numbers; it is not what the checkpoint was built on"):
        Converter(
            pristine, tmp_path / "other", config=model.config, base={"vision_encoder": clip}, progress=lines.append
        )
    assert not (tmp_path / "other").exists()
    num_taken = len(theirs) - 4  # without those two, and the norm of CLIP's pooled output, which no model here has
    with pytest.raises(ValueError, match=rf"{num_taken} of \d+ tensors in .* differ from the source"):
        again.verify()


def test_the_command_line_names_the_parts(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out"), "--base", "vae=somewhere"])
    assert (
        "'vae=somewhere' is not COMPONENT=DIR, COMPONENT one of language_model, vision_encoder, image_decoder"
        in capsys.readouterr().err
    )


def tokenizer_of(directory: Path, num_words: int) -> Path:
    directory.mkdir()
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(num_words - 3))]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def test_a_tokenizer_gets_the_two_new_tokens_and_can_come_later(model, pristine, tmp_path, capsys):
    config = replace(model.config, begin_of_image_id=WORDS, image_token_id=WORDS + 1)
    config.save(tmp_path / "config.json")
    out = tmp_path / "out"
    command = [str(pristine), "--out", str(out), "--config", str(tmp_path / "config.json")]
    assert main(command) == 0
    assert "reads no text yet" in capsys.readouterr().out
    shards = {file: file.stat().st_ino for file in out.glob("*.safetensors")}

    short = tokenizer_of(tmp_path / "short", WORDS - 1)
    assert main([*command, "--tokenizer", str(short)]) == 2
    assert f"are [{WORDS - 1}, {WORDS}]; the model has them at [{WORDS}, {WORDS + 1}]" in capsys.readouterr().err
    assert main([*command, "--tokenizer", str(pristine)]) == 2
    assert "holds no tokenizer.json" in capsys.readouterr().err

    assert main([*command, "--tokenizer", str(tokenizer_of(tmp_path / "whole", WORDS))]) == 0
    assert "reads no text yet" not in capsys.readouterr().out
    assert {file: file.stat().st_ino for file in out.glob("*.safetensors")} == shards
    processor = MMInterleaved.from_pretrained(out).processor
    assert (processor.height, processor.width) == (224, 224)
    assert processor.tokenizer.token_to_id("<|beginofimage|>") == WORDS
    assert processor.encode_text("w3 w4") == [6, 7]
    assert WORDS not in processor.encode_text("w3 <|beginofimage|> w4")


def test_two_conversions_in_one_directory_do_not_meet(model, pristine, tmp_path):
    out = tmp_path / "out"
    options = {"config": model.config, "progress": lambda line: None}
    one, same = (Converter(pristine, out, **options) for _ in range(2))
    other = Converter(pristine, out, **options, dtype="float16")
    out.mkdir()
    with directory_lock(out), pytest.raises(ValueError, match="Another process is writing into"):
        one.run()
    assert list(out.iterdir()) == []
    one.run()
    written = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(ValueError, match=r"holds another conversion: dtype is not what it was"):
        other.run()
    same.run()
    assert {file.name: file.read_bytes() for file in out.iterdir()} == written
