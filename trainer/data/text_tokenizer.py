"""The tokenizer of a corpus's text."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import Tokenizer

from models.object_storage import StorageError, read_object
from models.urls import check_url, is_url, shown_url


@lru_cache(maxsize=4)
def read_tokenizer(place: str) -> Tokenizer:
    """The tokenizer in a file, or at a URL.

    Raises:
        ValueError: there is no tokenizer in it, or the URL cannot be read.
    """
    try:
        if is_url(place):
            return Tokenizer.from_str(read_object(check_url(place, "It")).decode())
        return Tokenizer.from_file(place)
    except StorageError:  # which may pass, and says what it is about
        raise
    except Exception as error:  # the library raises no narrower one
        name = shown_url(place) if is_url(place) else place
        raise ValueError(f"corpus.tokenizer_file is '{name}', which cannot be read: {error}") from error
