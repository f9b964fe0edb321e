"""The tokenizer of a corpus's text."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import Tokenizer


@lru_cache(maxsize=4)
def read_tokenizer(file: str) -> Tokenizer:
    """The tokenizer in a file.

    Raises:
        ValueError: there is no tokenizer in it.
    """
    try:
        return Tokenizer.from_file(file)
    except Exception as error:  # the library raises no narrower one
        raise ValueError(f"corpus.tokenizer_file is '{file}', which cannot be read: {error}") from error
