"""Text that spells special tokens stays text, whatever kind of tokenizer reads it."""

import copy
import pickle

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from models.plain_text import PlainTextEncoder
from trainer.data.emoji.tokenizer import load_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<BoI>", "<image>"]
LETTERS = sorted(set("".join(SPECIAL)) | set(" ▁ab"))


def llama() -> Tokenizer:
    """As transformers writes an older SentencePiece model: special tokens stand in the vocabulary too, and bytes."""
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return tokenizer


def unigram() -> Tokenizer:
    """As T5's: the likeliest pieces of a text may be special tokens, whose log-probability is 0."""
    pieces = [(name, 0.0) for name in SPECIAL] + [(letter, -3.0) for letter in LETTERS]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def whole_words() -> Tokenizer:
    """As Llama 3's: what stands between spaces is looked up whole."""
    vocabulary = {name: number for number, name in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


@pytest.mark.parametrize("make", [load_tokenizer, llama, unigram, whole_words])
def test_text_that_spells_a_special_token_stays_text(make) -> None:
    tokenizer = make()
    before = tokenizer.to_str()
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    encode = PlainTextEncoder(tokenizer)
    for again in (encode, pickle.loads(pickle.dumps(encode)), copy.deepcopy(encode)):
        for name in ("<image>", "</s>", "<BoI>", "<s>"):
            text = f"a {name} b{name}"
            ids = again(text)
            assert not special.intersection(ids), name
            assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert special.intersection(tokenizer.encode("a</s>", add_special_tokens=False).ids), "the tokenizer itself would"
    assert tokenizer.to_str() == before


def test_usual_text_is_encoded_as_ever() -> None:
    for tokenizer in (load_tokenizer(), llama(), unigram()):
        assert PlainTextEncoder(tokenizer)("a ab") == tokenizer.encode("a ab", add_special_tokens=False).ids


def test_words_alone_have_no_other_spelling() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    assert PlainTextEncoder(tokenizer)("a </s> a") == [2, 0, 2]


def test_tokens_that_are_not_special_are_found_in_text() -> None:
    tokenizer = llama()
    tokenizer.add_tokens(["snail"])
    assert PlainTextEncoder(tokenizer)("snail") == tokenizer.encode("snail", add_special_tokens=False).ids


def test_what_is_no_text_gets_a_sentence() -> None:
    encode = PlainTextEncoder(load_tokenizer())
    with pytest.raises(ValueError, match=r"The text has '\\udcff' at character 2, half of a surrogate pair"):
        encode("ab\udcff")
    with pytest.raises(TypeError, match="A text must be a str; got a bytes"):
        encode(b"ab")  # type: ignore[arg-type]
