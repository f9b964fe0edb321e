"""Text to token ids, in which text is only text."""

from __future__ import annotations

import json
import secrets
from typing import Any

from tokenizers import Tokenizer


class PlainTextEncoder:
    """Encodes text that spells a special token, such as `</s>` or `<image>`, as the characters that it is. Special
    tokens come from the structure of a document alone.

    Args:
        tokenizer: stays as it is; what is added to it later is not known here.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = _without_special_names(tokenizer)

    def __call__(self, text: str) -> list[int]:
        """Token ids of a text, none of them special.

        Raises:
            TypeError: not a str.
            ValueError: the text is not Unicode: a half of a surrogate pair stands alone.
        """
        if not isinstance(text, str):
            raise TypeError(f"A text must be a str; got a {type(text).__name__}. Decode bytes first.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"The text has {text[error.start]!a} at character {error.start}, half of a surrogate pair, which is no "
                "character. Text that was decoded from bytes with errors='surrogateescape' is not UTF-8: decode it "
                "with errors='replace', or with its own encoding."
            ) from error
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def __reduce__(self) -> tuple[type[PlainTextEncoder], tuple[Tokenizer]]:
        # A pickled or copied tokenizer forgets that it is to find no special tokens.
        return PlainTextEncoder, (self._tokenizer,)


def whole_tokenizer(content: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`. It neither cuts texts nor pads them, whatever the file says: the model has
    to see all of a text, and nothing else."""
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _without_special_names(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that finds no special token in a text.

    `encode_special_tokens` keeps added tokens from being cut out of the text. Models that look whole words up in their
    vocabulary (WordLevel, Unigram, BPE with `ignore_merges`) could still find them there, so they get names that no
    text spells.
    """
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    stored = tokenizer.to_str()
    if special & tokenizer.get_vocab(with_added_tokens=False).keys():
        content: dict[str, Any] = json.loads(stored)
        unspellable = secrets.token_hex(16)
        names = {name: f"{unspellable}{name}" for name in special}
        for token in content["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = content["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(name, name): number for name, number in model["vocab"].items()}
        else:  # Unigram: pairs of a name and its log-probability
            model["vocab"] = [[names.get(name, name), score] for name, score in model["vocab"]]
        if model.get("unk_token") is not None:
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        stored = json.dumps(content)
    copy = Tokenizer.from_str(stored)
    copy.encode_special_tokens = True
    return copy
