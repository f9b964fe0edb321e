"""The tokenizer of a corpus's text."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import Tokenizer


@lru_cache(maxsize=4)
def read_tokenizer(file: str) -> Tokenizer:
    """The `literal` tokenizer in a file.

    Raises:
        ValueError: there is no tokenizer in it.
    """
    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception as error:  # the library raises no narrower one
        raise ValueError(f"corpus.tokenizer_file is '{file}', which cannot be read: {error}") from error
    return literal(tokenizer)


def literal(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that encodes "<s>" and the like in a web page as plain characters, not as special tokens."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy
