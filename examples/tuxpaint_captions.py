"""Captions for the stamps of Tux Paint: a folder of images with a sentence each, as a captioner learns and is scored.

    python -m examples.tuxpaint_captions prepare /usr/share/tuxpaint/stamps --out runs/tuxpaint

`prepare` writes, from every .png outside symbols/ that has a sentence (the first line of the .txt beside it):

* `train.json`, COCO's form of captions, for `trainer.data.index --form coco_captions`;
* `coco/dataset_coco.json`, for `trainer.evaluate --benchmark coco_caption`: its split `test` is what is held out, and
  its split `val` is as many images of the training part, which tell whether anything was learned at all;
* `tokenizer.json`, byte-level BPE of the training sentences, and `run.yaml`, the settings of the data.

Stamps of one subject are never on both sides: those with the same sentence, and those in one folder whose file names
begin with the same word, stand together. `shuffle` gives each answer of a run to another image: what chance scores.

    python -m examples.tuxpaint_captions shuffle OUT/coco_caption/predictions-0.jsonl shuffled.jsonl

The stamps are under the GPL-2. They stay where they are: `coco/stamps` is a link to their folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.data.emoji.tokenizer import SPECIAL_TOKENS

LEFT_OUT = "symbols"
"""Letters, coins and signs: no photographs or drawings of things."""
HELD_OUT_TENTHS = 2
VOCABULARY = 1024
"""The entries that the toy model's embedding has."""


@dataclass(frozen=True)
class Stamp:
    """An image of the folder."""

    file: str
    """Relative to the folder, with `/`."""
    sentence: str

    @property
    def subject(self) -> str:
        """The folder, whether drawn or photographed, and the first word of the file's name."""
        path = Path(self.file)
        folders = [part for part in path.parent.parts if part != "cartoon"]
        word = re.match(r"[A-Za-z]*", path.stem)
        return "/".join([*folders, (word.group() if word else "").lower() or path.stem])


def read_stamps(folder: Path) -> list[Stamp]:
    """Every PNG with a sentence outside `symbols/`, in the order of the names. Raises ValueError if there are none."""
    stamps = []
    for image in sorted(folder.rglob("*.png")):
        text = image.with_suffix(".txt")
        file = image.relative_to(folder)
        if file.parts[0] == LEFT_OUT or not text.is_file():
            continue
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and lines[0].strip():
            stamps.append(Stamp(file.as_posix(), " ".join(lines[0].split())))
    if not stamps:
        raise ValueError(f"{folder} has no .png with a .txt of the same name; expected the stamps of Tux Paint.")
    return stamps


def split(stamps: Sequence[Stamp]) -> tuple[list[Stamp], list[Stamp]]:
    """What is trained on and what is held out: about a fifth of the groups of stamps that share a subject.

    Which groups, depends on their own names alone, so that it stays when other stamps are added.
    """
    group: dict[str, str] = {}

    def first(key: str) -> str:
        while group.setdefault(key, key) != key:
            key = group[key]
        return key

    for stamp in stamps:
        one, other = first(f"subject {stamp.subject}"), first(f"sentence {_plain(stamp.sentence)}")
        group[max(one, other)] = min(one, other)
    trained: list[Stamp] = []
    held_out: list[Stamp] = []
    for stamp in stamps:
        name = first(f"subject {stamp.subject}")
        is_held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 < HELD_OUT_TENTHS
        (held_out if is_held_out else trained).append(stamp)
    if not trained or not held_out:
        raise ValueError(f"{len(stamps)} stamps are of too few subjects to hold some out.")
    return trained, held_out


def _plain(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence.lower()))


def make_tokenizer(sentences: Sequence[str]) -> Tokenizer:
    """Byte-level BPE of the sentences, with the model's special tokens first; any text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def prepare(folder: Path, out: Path) -> tuple[int, int]:
    """Write the files that the module's first lines name. Returns the numbers of images trained on and held out.

    Raises:
        ValueError: the folder has no stamps, or too few.
    """
    trained, held_out = split(read_stamps(folder))
    (out / "coco").mkdir(parents=True, exist_ok=True)
    link = out / "coco" / "stamps"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve(), target_is_directory=True)
    coco = {
        "images": [{"id": number, "file_name": stamp.file} for number, stamp in enumerate(trained)],
        "annotations": [
            {"id": number, "image_id": number, "caption": stamp.sentence} for number, stamp in enumerate(trained)
        ],
    }
    _write(out / "train.json", coco)
    parts = {"test": held_out, "val": trained[:: max(1, len(trained) // len(held_out))][: len(held_out)]}
    rows: list[dict[str, object]] = [
        {
            "split": name,
            "filepath": str(Path("stamps") / Path(stamp.file).parent),
            "filename": Path(stamp.file).name,
            "cocoid": number,
            "sentences": [{"raw": stamp.sentence}],
        }
        for name, part in parts.items()
        for number, stamp in enumerate(part)
    ]
    _write(out / "coco" / "dataset_coco.json", {"images": rows})
    make_tokenizer([stamp.sentence for stamp in trained]).save(str(out / "tokenizer.json"))
    source = {"manifest": str(out / "index"), "fit": "squeeze"}
    corpus = {"sources": {"stamps": source}, "tokenizer_file": str(out / "tokenizer.json")}
    _write(out / "run.yaml", {"corpus": {**corpus, "num_rows": 4, "row_tokens": 192}})  # JSON is YAML
    return len(trained), len(held_out)


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def shuffle(predictions: Path, out: Path) -> None:
    """Give every answer of a file of predictions to the image half a file further on."""
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    half = len(rows) // 2
    answers = [row["prediction"] for row in rows[half:] + rows[:half]]
    lines = [
        json.dumps({"id": row["id"], "prediction": answer}) + "\n" for row, answer in zip(rows, answers, strict=True)
    ]
    out.write_text("".join(lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.tuxpaint_captions", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="write what training and evaluation read")
    preparing.add_argument("folder", type=Path, help="the stamps; Debian: /usr/share/tuxpaint/stamps")
    preparing.add_argument("--out", type=Path, default=Path("runs/tuxpaint"))
    shuffling = commands.add_parser("shuffle", help="give each answer of a run to another image")
    shuffling.add_argument("predictions", type=Path)
    shuffling.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command == "prepare":
            trained, held_out = prepare(given.folder, given.out)
            print(f"{trained} images to train on and {held_out} held out: {given.out}")
        else:
            shuffle(given.predictions, given.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
