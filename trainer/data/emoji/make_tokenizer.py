"""Trains the shipped tokenizer from the world's own text: `python -m trainer.data.emoji.make_tokenizer`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from models.program import run_program
from models.urls import local_path
from trainer.data.document import Text
from trainer.data.emoji.atlas import sprites
from trainer.data.emoji.tasks import PRETRAINING_FAMILIES, TaskOptions, documents, known_caption
from trainer.data.emoji.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE

VOCAB_SIZE = 1024
# A word with the space before it; a digit alone, with the space before it; other signs; spaces.
PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NUM_TEMPLATE_DOCUMENTS = 200  # of each family: enough for every word of every template


def corpus() -> Iterator[str]:
    """The world's text; templates and the first concepts often, so that each of their words becomes one token."""
    few = TaskOptions(num_concepts=8, num_sprites=2)
    for task in PRETRAINING_FAMILIES:
        for index, document in enumerate(documents(task, "train", 0, NUM_TEMPLATE_DOCUMENTS, options=few)):
            texts = [segment.text for segment in document.segments if isinstance(segment, Text)]
            if task == "caption":  # some captions to learn from show strangers
                texts = [texts[0], f" {known_caption(0, index, 'train', few)}"]
            yield from texts * 20
    for index, sprite in enumerate(sprites()):
        yield from [f" {sprite.phrase}"] * (400 if index < 64 else 100)


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE of at most VOCAB_SIZE entries; the same one every time."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(PIECES), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.data.emoji.make_tokenizer",
        description="Train the emoji world's tokenizer, which is the same one every time.",
    )
    parser.add_argument(
        "--out", type=local_path, default=TOKENIZER_FILE, metavar="FILE", help="default: where the trainer reads it"
    )
    out: Path = parser.parse_args().out
    tokenizer = train_tokenizer()
    tokenizer.save(str(out))
    words = {word for sprite in sprites() for word in f" {sprite.name}".replace(" ", "\n ").split("\n")[1:]}
    whole = sum(len(tokenizer.encode(word).ids) == 1 for word in words)
    print(f"{tokenizer.get_vocab_size()} tokens; {whole} of {len(words)} name words are one token")


if __name__ == "__main__":
    sys.exit(run_program(main))
