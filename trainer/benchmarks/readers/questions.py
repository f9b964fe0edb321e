"""Questions about images with short answers: VQAv2, OK-VQA, TextVQA, VizWiz, GQA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.benchmarks.readers.checked_split import checked_split
from trainer.benchmarks.readers.json_files import (
    each,
    entries_of,
    explained,
    read_json,
    text,
    whole_number,
)
from trainer.benchmarks.sample import ImageFile, Sample, Split
from trainer.errors import UsageError


def read_vqa_form(
    questions: Path, annotations: Path | None, images: Path, split: str, expected: int | None, image_name: str
) -> Split:
    """VQAv2 and OK-VQA: `{questions: [{question_id, image_id, question}]}`, and `{annotations: [{question_id,
    question_type, answer_type, answers: [{answer}]}]}` where the answers are public.

    Args:
        image_name: of an image's file, with a place for its number: `COCO_val2014_{:012d}.jpg`.
    """
    truths: dict[int, Mapping[str, Any]] = {}

    def add(one: Mapping[str, Any]) -> None:
        truths[whole_number(one["question_id"])] = {
            "answers": [text(said["answer"]) for said in one["answers"]],
            "question type": str(one.get("question_type", "")),
            "answer type": str(one.get("answer_type", "")),
        }

    if annotations is not None:
        each(annotations, entries_of(annotations, read_json(annotations), "annotations"), add)

    def sample(one: Mapping[str, Any]) -> Sample:
        number = whole_number(one["question_id"])
        if annotations is not None and number not in truths:
            raise UsageError(f"{annotations} has no answers to question {number}, which {questions.name} asks.")
        path = images / image_name.format(whole_number(one["image_id"]))
        return Sample(str(number), (ImageFile(path), text(one["question"])), truths.get(number, {}))

    samples = each(questions, entries_of(questions, read_json(questions), "questions"), sample)
    files = [questions] if annotations is None else [questions, annotations]
    return _split(split, samples, files, expected, is_scored=annotations is not None)


def read_vqa_questions(questions: Path, images: Path, split: str, expected: int | None, image_name: str) -> Split:
    """As :func:`read_vqa_form`, where only a server knows the answers."""
    return read_vqa_form(questions, None, images, split, expected, image_name)


def read_textvqa(data: Path, images: Path, split: str, expected: int | None) -> Split:
    """`{data: [{question_id, question, image_id, answers: [ten texts]}]}`."""

    def sample(one: Mapping[str, Any]) -> Sample:
        path = images / f"{text(one['image_id'])}.jpg"
        truth = {"answers": [text(said) for said in one["answers"]]} if "answers" in one else {}
        return Sample(str(whole_number(one["question_id"])), (ImageFile(path), text(one["question"])), truth)

    samples = each(data, entries_of(data, read_json(data), "data"), sample)
    return _split(split, samples, [data], expected, is_scored=all("answers" in one.truth for one in samples))


def read_vizwiz(questions: Path, images: Path, split: str, expected: int | None) -> Split:
    """`[{image, question, answers: [{answer}], answer_type}]`, without answers where only the server has them. The name
    of the image is the id: every image has one question."""

    def sample(one: Mapping[str, Any]) -> Sample:
        name = text(one["image"])
        truth = {}
        if "answers" in one:
            truth = {
                "answers": [text(said["answer"]) for said in one["answers"]],
                "answer type": str(one.get("answer_type", "")),
            }
        return Sample(name, (ImageFile(images / name), text(one["question"])), truth)

    samples = each(questions, entries_of(questions, read_json(questions)), sample)
    return _split(split, samples, [questions], expected, is_scored=all(one.truth for one in samples))


def read_gqa(questions: Path, images: Path, split: str, expected: int | None) -> Split:
    """`{id: {question, imageId, answer, isBalanced, types: {structural}}}`. Only balanced questions count."""
    content = read_json(questions)
    if not isinstance(content, Mapping):
        raise UsageError(f"{questions} holds a {type(content).__name__}; expected questions by their id.")
    samples = []
    for number, one in content.items():
        try:
            if one["isBalanced"]:
                path = images / f"{text(one['imageId'])}.jpg"
                kind = text(one["types"]["structural"])
                truth = {
                    "answer": text(one["answer"]),
                    "answer type": "open" if kind == "query" else "binary",
                    "question type": kind,
                }
                samples.append(Sample(str(number), (ImageFile(path), text(one["question"])), truth))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{questions}, question {number}: {explained(error)}") from error
    return _split(split, samples, [questions], expected)


def _split(name: str, samples: list[Sample], files: list[Path], expected: int | None, is_scored: bool = True) -> Split:
    for sample in samples:
        if "answers" in sample.truth and not sample.truth["answers"]:
            raise UsageError(f"{files[-1]}: question {sample.id} has no answer.")
    return checked_split(name, samples, files, expected, thing="question", is_scored=is_scored)
