"""`python -m models.convert SRC --out DIR`: the released weights as a directory for `MMInterleaved.from_pretrained`.

SRC holds the released `*.bin` files. They are memory-mapped one at a time; at most one shard of the
output is in memory. DIR gets `config.json`, `model-*.safetensors`, their index, and `conversion.json`, which says
from what each shard was made. The index is written last: without it, the directory is no model yet, and the same
command resumes where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from models.config import MMInterleavedConfig
from models.number_options import real_number
from models.program import explained, run_program
from models.released.base_weights import SNAPSHOT_LAYOUTS
from models.released.dtype import DType
from models.urls import local_path
from models.write_errors import WriteError

if TYPE_CHECKING:
    from models.processor import MMInterleavedProcessor

PROGRAM = "python -m models.convert"
NEW_TOKENS = ("<|beginofimage|>", "<|image|>")
"""What the release added to the language model's vocabulary, in this order."""


def released_processor(directory: Path, config: MMInterleavedConfig) -> MMInterleavedProcessor:
    """The language model's tokenizer with the two tokens for images.

    Raises:
        FileNotFoundError: the directory holds no `tokenizer.json`.
        ValueError: it is damaged, or its vocabulary does not end where the model's new tokens begin.
    """
    from models.processor import TOKENIZER_FILE, MMInterleavedProcessor, read_tokenizer

    if not (directory / TOKENIZER_FILE).is_file():
        raise FileNotFoundError(
            f"{directory} holds no {TOKENIZER_FILE}. If it holds an older tokenizer.model, let transformers write the "
            "new form: AutoTokenizer.from_pretrained(directory).save_pretrained(directory)"
        )
    tokenizer = read_tokenizer(directory / TOKENIZER_FILE)
    tokenizer.add_special_tokens(list(NEW_TOKENS))
    ids, expected = [tokenizer.token_to_id(t) for t in NEW_TOKENS], [config.begin_of_image_id, config.image_token_id]
    if ids != expected:
        raise ValueError(
            f"With the tokenizer of {directory}, {' and '.join(NEW_TOKENS)} are {ids}; the model has them at "
            f"{expected}. Name the tokenizer of the language model that this model was built on."
        )
    return MMInterleavedProcessor(tokenizer, image_size=config.image_size)


def _base_argument(text: str) -> tuple[str, Path]:
    component, _, directory = text.partition("=")
    if component not in SNAPSHOT_LAYOUTS or not directory:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not COMPONENT=DIR, COMPONENT one of {', '.join(SNAPSHOT_LAYOUTS)}"
        )
    return component, Path(directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("source", type=local_path, metavar="SRC", help="the directory with the released *.bin files")
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="the directory to write; an unfinished one goes on"
    )
    parser.add_argument("--dtype", choices=get_args(DType), default="source", help="default: as in SRC")
    parser.add_argument(
        "--base",
        type=_base_argument,
        action="append",
        default=[],
        metavar="COMPONENT=DIR",
        help="take what the training left unchanged from a local snapshot; COMPONENT is one of "
        f"{', '.join(SNAPSHOT_LAYOUTS)}",
    )
    parser.add_argument(
        "--tokenizer", type=local_path, metavar="DIR", help="of the language model, with its tokenizer.json"
    )
    parser.add_argument(
        "--config", type=local_path, metavar="FILE", help="a config.json; default: the released 13B model's"
    )
    parser.add_argument("--max_shard_gb", type=float, default=2.0, metavar="GB", help="default: 2")
    parser.add_argument("--verify", action="store_true", help="compare checksums of source and output, too")
    given = parser.parse_args(arguments)
    from models.released.conversion import Converter  # here, for --help needs neither transformers nor diffusers

    try:
        if given.config is not None and not given.config.is_file():
            raise FileNotFoundError(
                f"--config is {given.config}, which is not a file; expected the config.json of a model, or no --config "
                "for the released 13B model's."
            )
        config = MMInterleavedConfig.load(given.config) if given.config else MMInterleavedConfig.released_13b()
        converter = Converter(
            given.source,
            given.out,
            config=config,
            dtype=given.dtype,
            base=dict(given.base),
            max_shard_bytes=int(real_number("--max_shard_gb", given.max_shard_gb, above=0) * 1e9),
            processor=released_processor(given.tokenizer, config) if given.tokenizer else None,
        )
        converter.run()
        if given.verify:
            print(f"{converter.verify()} tensors are those of {given.source}")
    except WriteError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"{PROGRAM}: {explained(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    left_out = len(converter.conversion.recomputed)
    print(f"wrote {given.out}; {left_out} tensors that the model computes itself are left out")
    if given.tokenizer is None:
        print("It reads no text yet: the same command with --tokenizer DIR adds the language model's tokenizer.")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
