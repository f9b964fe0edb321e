"""`python -m trainer.data.annotations KIND FILE... --out ROWS.jsonl`: published annotations to rows of a task.

| KIND | FILE | rows for |
|---|---|---|
| vqav2 | questions and annotations of VQAv2, two .json files | vqa |
| coco_captions | captions_*.json of COCO | vqa: a caption answers a question too |
| llava | an array of conversations in one .json, as LLaVA has them | instruct |
| vist | *.story-in-sequence.json of VIST; pictures are named PHOTO_ID.jpg | story |

`trainer.data.index` indexes the rows; a sample whose picture is missing is named there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.data.sources.tasks import CAPTION_QUESTION

PROGRAM = "python -m trainer.data.annotations"
Rows = Iterator[dict[str, Any]]


def vqav2(contents: Sequence[Any]) -> Rows:
    """One row a question, answered as most people did; the split in the file gives the pictures' names."""
    questions = {one["question_id"]: one["question"] for content in contents for one in content.get("questions", ())}
    [split] = {content["data_subtype"] for content in contents}
    for content in contents:
        for one in content.get("annotations", ()):
            yield {
                "image": f"COCO_{split}_{one['image_id']:012d}.jpg",
                "question": questions[one["question_id"]],
                "answer": one["multiple_choice_answer"],
            }


def coco_captions(contents: Sequence[Any]) -> Rows:
    """One row a caption."""
    for content in contents:
        names = {one["id"]: one["file_name"] for one in content["images"]}
        for one in content["annotations"]:
            yield {"image": names[one["image_id"]], "question": CAPTION_QUESTION, "answer": one["caption"]}


def llava(contents: Sequence[Any]) -> Rows:
    """One row a conversation."""
    for content in contents:
        yield from ({key: one[key] for key in ("image", "conversations") if key in one} for one in content)


def vist(contents: Sequence[Any]) -> Rows:
    """One row a story, its sentences in order."""
    stories: dict[str, list[Mapping[str, Any]]] = {}
    for content in contents:
        for [one] in content["annotations"]:
            stories.setdefault(one["story_id"], []).append(one)
    for parts in stories.values():
        parts.sort(key=lambda one: int(one["worker_arranged_photo_order"]))
        yield {"story": [{"text": one["text"], "image": f"{one['photo_flickr_id']}.jpg"} for one in parts]}


KINDS: dict[str, Callable[[Sequence[Any]], Rows]] = {
    "vqav2": vqav2,
    "coco_captions": coco_captions,
    "llava": llava,
    "vist": vist,
}


def convert(kind: str, files: Sequence[Path], out: Path) -> int:
    """Write the rows of the files; returns how many. `out` is there when it is whole.

    Raises:
        ValueError: a file cannot be read, or holds something else.
    """
    contents = []
    for file in files:
        try:
            contents.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
    unfinished = out.with_name(f".{out.name}")
    num_rows = 0
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            for row in KINDS[kind](contents):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                num_rows += 1
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        unfinished.unlink()
        raise ValueError(
            f"{', '.join(map(str, files))}: this is not what {kind} looks like ({type(error).__name__}: {error}). "
            f"Expected the files that {PROGRAM} --help names."
        ) from error
    unfinished.rename(out)
    return num_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 not possible."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=list(KINDS), metavar="KIND")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, help="the JSON lines to write")
    args = parser.parse_args(arguments)
    try:
        num_rows = convert(args.kind, args.files, args.out)
    except (OSError, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {num_rows:,} rows. Next: python -m trainer.data.index {args.out} --images PICTURES --out DIR")
    return 0


if __name__ == "__main__":
    sys.exit(main())
