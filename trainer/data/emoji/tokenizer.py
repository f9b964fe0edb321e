"""The tokenizer of the emoji world: byte-level BPE, every digit a token, shipped with the repository."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

TOKENIZER_FILE = Path(__file__).with_name("tokenizer.json")
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<BoI>", "<image>")
"""In the order of their ids, 0 to 4."""


@lru_cache(maxsize=1)
def load_tokenizer() -> Tokenizer:
    """The shipped tokenizer. Any text survives encoding and decoding; it adds no special tokens."""
    return Tokenizer.from_file(str(TOKENIZER_FILE))
