"""Dialogues about an image, whose next answer is to be found among a hundred: VisDial 1.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainer.benchmarks.readers.checked_split import checked_split
from trainer.benchmarks.readers.json_files import each, entries_of, read_json, text, whole_number
from trainer.benchmarks.sample import ImageFile, Sample, Segment, Split
from trainer.errors import UsageError

History = Literal["all", "release"]
"""Which earlier rounds are read: all, or without the last one, as the released code has it."""


def read_visdial(
    dialogues: Path, dense: Path, images: Path, split: str, expected: int | None, history: History = "all"
) -> Split:
    """`visdial_1.0_val.json` with `visdial_1.0_val_dense_annotations.json`: one round of each dialogue, that which has
    relevances."""
    content = read_json(dialogues)
    questions = entries_of(dialogues, content, "data", "questions")
    answers = entries_of(dialogues, content, "data", "answers")
    relevances: dict[int, tuple[int, Sequence[float]]] = {}

    def add(one: Mapping[str, Any]) -> None:
        relevances[whole_number(one["image_id"])] = (
            whole_number(one["round_id"]),
            list(map(float, one["gt_relevance"])),
        )

    each(dense, entries_of(dense, read_json(dense)), add)

    def sample(one: Mapping[str, Any]) -> Sample:
        number = whole_number(one["image_id"])
        if number not in relevances:
            raise UsageError(f"{dense} has no relevances for image {number}, which {dialogues.name} speaks about.")
        round_id, relevance = relevances[number]
        rounds = one["dialog"]
        if not 1 <= round_id <= len(rounds):
            raise ValueError(f"its round {round_id} is one of {len(rounds)}.")
        asked = rounds[round_id - 1]
        options = tuple(text(answers[option]) for option in asked["answer_options"])
        if len(options) != len(relevance):
            raise ValueError(f"there are {len(relevance)} relevances for {len(options)} options.")
        document: list[Segment] = [ImageFile(images / f"VisualDialog_val2018_{number:012d}.jpg"), text(one["caption"])]
        earlier = rounds[: round_id - 1] if history == "all" else rounds[: max(round_id - 2, 0)]
        for said in earlier:
            document += [text(questions[said["question"]]), text(answers[said["answer"]])]
        document.append(text(questions[asked["question"]]))
        truth = {"relevance": relevance, "option": whole_number(asked["gt_index"]), "round": round_id}
        return Sample(str(number), tuple(document), truth, options)

    samples = each(dialogues, entries_of(dialogues, content, "data", "dialogs"), sample)
    return checked_split(split, samples, [dialogues, dense], expected, thing="dialogue")
