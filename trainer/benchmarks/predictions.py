"""Predictions on disk: a line of JSON for each sample, written batch by batch, so that a killed run goes on.

`predictions-RANK.jsonl` in the benchmark's folder. Any number of processes may go on with what another number began.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from models.write_errors import writing
from trainer.benchmarks.sample import Sample
from trainer.benchmarks.scoring import Prediction
from trainer.errors import UsageError

PATTERN = "predictions-*.jsonl"


@dataclass(frozen=True)
class Answered:
    """What was predicted for one sample."""

    id: str
    prediction: Prediction
    """Text, a score for each candidate, or the path of a drawn image, relative to the benchmark's folder."""

    seconds: float = 0.0
    """Its share of the time that its batch took."""

    finish_reason: str | None = None


def append(path: Path, answered: Iterable[Answered]) -> None:
    """Write whole lines at once, and return when they are on the disk."""
    lines = "".join(
        json.dumps(
            {
                "id": one.id,
                "prediction": one.prediction if isinstance(one.prediction, str) else list(one.prediction),
                "finish_reason": one.finish_reason,
                "seconds": round(one.seconds, 4),
            },
            ensure_ascii=False,
        )
        + "\n"
        for one in answered
    )
    data = lines.encode("utf-8", errors="replace")
    with writing(path, len(data)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_all(directory: Path, known: Collection[str]) -> dict[str, Answered]:
    """What any process of any earlier run has written. A torn last line is cut off; of two lines for a sample, the
    later one counts.

    Args:
        directory: the benchmark's folder.
        known: ids of the split.

    Raises:
        UsageError: a line is damaged, or its id is none of the split's.
    """
    found: dict[str, Answered] = {}
    for path in sorted(directory.glob(PATTERN)):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # a run was killed while it wrote
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            one = _answered(path, number, line)
            if one.id not in known:
                raise UsageError(
                    f"{path}, line {number}: {one.id!r} is none of the split's samples; --overwrite begins anew."
                )
            found[one.id] = one
    return found


def _answered(path: Path, number: int, line: bytes) -> Answered:
    try:
        entry = json.loads(line)
        prediction = entry["prediction"]
        if isinstance(prediction, list):
            prediction = [float(value) for value in prediction]
        elif not isinstance(prediction, str):
            raise TypeError
        return Answered(str(entry["id"]), prediction, float(entry.get("seconds", 0)), entry.get("finish_reason"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f'{path}, line {number}: this is no prediction; expected {{"id": ..., "prediction": ...}}.'
        ) from None


ID_KEYS = ("id", "question_id", "questionId", "image_id", "image")
PREDICTION_KEYS = ("prediction", "answer", "caption", "ranks", "scores")


def read_given(path: Path, samples: Iterable[Sample]) -> dict[str, Answered]:
    """Predictions of any program: our lines of JSON, or the official form of a data set, a list of `{question_id,
    answer}`, `{image_id, caption}`, `{questionId, prediction}`, `{image, answer}`.

    Raises:
        UsageError: the file has none of these forms, an id stands twice or is unknown.
    """
    known = {sample.id for sample in samples}
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    entries: list[Any]
    try:
        loaded = json.loads(content)
        entries = loaded if isinstance(loaded, list) else [loaded]
    except ValueError:
        entries = []
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                try:
                    entries.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{path}, line {number}: this is no JSON: {error}") from error
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply for a list of predictions.") from None
    found: dict[str, Answered] = {}
    for number, entry in enumerate(entries):
        one = _given(path, number, entry)
        if one.id not in known:
            raise UsageError(f"{path}, entry {number}: {one.id!r} is none of the split's samples.")
        if one.id in found:
            raise UsageError(f"{path}, entry {number}: {one.id!r} stands twice; expected one prediction a sample.")
        found[one.id] = one
    return found


def file_stem(sample_id: str) -> str:
    """The name of a sample's image file without its suffix: what a name cannot hold stands as in an address."""
    return quote(sample_id, safe="")


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def given_images(directory: Path, samples: Iterable[Sample]) -> dict[str, Path]:
    """Images of any program, `ID.png` or another of `IMAGE_SUFFIXES`, by id. What a file name cannot hold stands there
    as in an address: a slash is %2F.

    Raises:
        UsageError: there is no such folder, or no image or several of a sample.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is no folder; expected one of images named by the samples' ids, ID.png.")
    names = {entry.name for entry in directory.iterdir()}
    found: dict[str, Path] = {}
    missing: list[str] = []
    for sample in samples:
        mine = [name for suffix in IMAGE_SUFFIXES if (name := file_stem(sample.id) + suffix) in names]
        if len(mine) > 1:
            raise UsageError(f"{directory} has {' and '.join(mine)}; expected one image of a sample.")
        if mine:
            found[sample.id] = directory / mine[0]
        else:
            missing.append(file_stem(sample.id) + IMAGE_SUFFIXES[0])
    if missing:
        raise UsageError(
            f"{directory} lacks images of {len(missing):,} of {len(missing) + len(found):,} samples, the first "
            f"{missing[0]}. A part scores otherwise than all: give all, or score the first ones with --limit."
        )
    return found


def _given(path: Path, number: int, entry: Any) -> Answered:
    if isinstance(entry, Mapping):
        ids = [entry[key] for key in ID_KEYS if key in entry]
        predictions = [entry[key] for key in PREDICTION_KEYS if key in entry]
        if ids and predictions:
            prediction = predictions[0]
            if isinstance(prediction, str):
                return Answered(str(ids[0]), prediction)
            if isinstance(prediction, list) and all(
                isinstance(value, int | float) and not isinstance(value, bool) for value in prediction
            ):
                return Answered(str(ids[0]), [float(value) for value in prediction])
    raise UsageError(
        f"{path}, entry {number}: expected an object with an id ({', '.join(ID_KEYS)}) and a prediction "
        f"({', '.join(PREDICTION_KEYS)}), which is text or a list of numbers."
    )


def ordered(samples: Iterable[Sample], found: Mapping[str, Answered]) -> tuple[list[Sample], list[Prediction]]:
    """The samples that have a prediction, and those, in the split's order."""
    with_prediction = [sample for sample in samples if sample.id in found]
    return with_prediction, [found[sample.id].prediction for sample in with_prediction]
