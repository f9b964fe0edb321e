"""The tokenizer of a pre-trained language model, with the tokens that MM-Interleaved adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from models.plain_text import whole_tokenizer
from models.pretrained.snapshots import Source

BEGIN_OF_IMAGE = "<BoI>"
IMAGE = "<image>"
PAD = "<pad>"


@dataclass(frozen=True)
class ExtendedTokenizer:
    """A tokenizer and the ids that the model has to know."""

    tokenizer: Tokenizer
    ids: dict[str, int]
    """Those of an `MMInterleavedConfig`."""

    num_new: int
    first_new: int
    """The new tokens have consecutive ids from here."""


def extended_tokenizer(source: Source, language_model: dict[str, Any]) -> ExtendedTokenizer:
    """Read a tokenizer and add `<BoI>`, and where it has none of its own `<image>` and padding.

    Padding is never written; so a tokenizer that pads with its end of text gets padding of its own. Where a language
    model has no begin of text, its end of text begins the next one (Qwen).

    Args:
        source: with the files of the tokenizer.
        language_model: settings of the language model, for begin and end of text that the tokenizer does not name.

    Raises:
        FileNotFoundError: there is no tokenizer.
        ValueError: it has a `<BoI>` already, names no end of text, has more tokens than the language model, or is a
            Python program.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(
            source.name, local_files_only=source.local_files_only, trust_remote_code=False
        )
        tokenizer = whole_tokenizer(loaded.backend_tokenizer.to_str())
    except (OSError, ValueError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"The tokenizer of {source.name} is a Python program of its own, and programs that come with a model "
                "are not run. Save it as tokenizer.json where you trust it, and give that directory as tokenizer=."
            ) from error
        raise FileNotFoundError(
            f"{source.name} has no tokenizer that can be read. Give a directory or a hub name that has one as "
            f"tokenizer=. {error}"
        ) from error
    eos = _first(loaded.eos_token_id, language_model.get("eos_token_id"))
    bos = _first(loaded.bos_token_id, language_model.get("bos_token_id"), eos)
    if eos is None or bos is None:
        raise ValueError(
            f"{source.name} names no end of text: neither its tokenizer nor the language model has an eos_token_id. "
            "Set eos_token in tokenizer_config.json."
        )
    if tokenizer.token_to_id(BEGIN_OF_IMAGE) is not None:
        raise ValueError(
            f"The tokenizer of {source.name} has a token {BEGIN_OF_IMAGE} already. Give the original language model, "
            "or read this one with MMInterleaved.from_pretrained."
        )
    pad = loaded.pad_token_id
    new = [BEGIN_OF_IMAGE]
    if tokenizer.token_to_id(IMAGE) is None:
        new.append(IMAGE)
    if pad in (None, bos, eos):
        pad = None
        new.append(_unused(tokenizer, PAD))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in new])
    first = _id(tokenizer, BEGIN_OF_IMAGE)
    if first > language_model["vocab_size"]:
        raise ValueError(
            f"The tokenizer of {source.name} has {first} tokens, the language model {language_model['vocab_size']}: "
            "they are not of one snapshot. Give the tokenizer that belongs to the language model."
        )
    ids = {
        "pad_token_id": _id(tokenizer, new[-1]) if pad is None else pad,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "begin_of_image_id": first,
        "image_token_id": _id(tokenizer, IMAGE),
    }
    return ExtendedTokenizer(tokenizer, ids, len(new), first)


def _id(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    assert number is not None, "it was added"
    return number


def _first(*ids: int | list[int] | None) -> int | None:
    """The first that is there; of several ends of text, the first."""
    for candidate in ids:
        if isinstance(candidate, list):
            candidate = candidate[0] if candidate else None
        if candidate is not None:
            return candidate
    return None


def _unused(tokenizer: Tokenizer, token: str) -> str:
    while tokenizer.token_to_id(token) is not None:
        token = f"<{token}>"
    return token
