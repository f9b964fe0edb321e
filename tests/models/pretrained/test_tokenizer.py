"""The ids of special tokens, for each habit of the tokenizers of language models."""

import json
from pathlib import Path

import pytest

from models.pretrained.snapshots import Source
from models.pretrained.tokenizer import extended_tokenizer
from tiny_snapshots import write_tokenizer

LLAMA = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}


def read(folder: Path, settings: dict = LLAMA):
    return extended_tokenizer(Source(str(folder), "language model"), settings)


def test_a_tokenizer_without_padding_gets_it(tmp_path: Path) -> None:
    tokens = read(write_tokenizer(tmp_path, "<unk>", "<s>", "</s>", bos_token="<s>", eos_token="</s>"))
    assert (tokens.first_new, tokens.num_new) == (259, 3)
    assert tokens.ids == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "begin_of_image_id": 259,
        "image_token_id": 260,
        "pad_token_id": 261,
    }
    assert tokens.tokenizer.decode([259, 260, 261], skip_special_tokens=True) == ""


def test_padding_of_its_own_is_kept_unless_it_ends_the_text(tmp_path: Path) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    own = read(write_tokenizer(tmp_path / "own", "<pad>", "<s>", "</s>", pad_token="<pad>", **names))
    assert (own.num_new, own.ids["pad_token_id"]) == (2, 0)
    eos = read(write_tokenizer(tmp_path / "eos", "<pad>", "<s>", "</s>", pad_token="</s>", **names))
    assert (eos.num_new, eos.ids["pad_token_id"]) == (3, 261)
    assert eos.tokenizer.id_to_token(261) == "<<pad>>", "<pad> is taken"


def test_begin_and_end_of_text_that_the_tokenizer_does_not_name(tmp_path: Path) -> None:
    """Qwen has no begin of text; LLaMA 3 several ends."""
    folder = write_tokenizer(tmp_path / "qwen", "<|endoftext|>", "<|im_end|>", eos_token="<|im_end|>")
    assert read(folder, {"vocab_size": 300, "bos_token_id": 0}).ids["bos_token_id"] == 0
    assert read(folder, {"vocab_size": 300, "bos_token_id": None}).ids["bos_token_id"] == 1
    folder = write_tokenizer(tmp_path / "llama3", "<s>", "</s>", "<eot>", bos_token="<s>")
    assert read(folder, {"vocab_size": 300, "eos_token_id": [1, 2]}).ids["eos_token_id"] == 1
    with pytest.raises(ValueError, match="names no end of text"):
        read(folder, {"vocab_size": 300})


def test_an_image_token_that_is_there_is_used_and_a_begin_of_image_is_not(tmp_path: Path) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    tokens = read(write_tokenizer(tmp_path / "image", "<image>", "<s>", "</s>", **names))
    assert (tokens.ids["image_token_id"], tokens.num_new) == (0, 2)
    with pytest.raises(ValueError, match="has a token <BoI> already"):
        read(write_tokenizer(tmp_path / "begin", "<BoI>", "<s>", "</s>", **names))


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 258 tokens, the language model 200: they are not of one snapshot"):
        read(write_tokenizer(tmp_path), {"vocab_size": 200})


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tokenizer(tmp_path / "own", "<unk>", "<s>", "</s>", bos_token="<s>", eos_token="</s>")
    left_behind = tmp_path / "left behind"
    (folder / "mine.py").write_text(
        f"open({str(left_behind)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\n"
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"is a Python program of its own, and programs .* are not run"):
        read(folder)
    assert not left_behind.exists()
    assert "Do you wish to run" not in capsys.readouterr().out
