"""Accuracy of short answers against ten people's: VQAv2 and OK-VQA, TextVQA, VizWiz. Each data set's official program
cleans texts by rules of its own, and the same answers score 66, 71 or 48 of 100 by them."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUM_ANSWERS = 10

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_ARTICLES = frozenset(("a", "an", "the"))
# A word in which one apostrophe of these is missing gets it back.
_WITH_APOSTROPHES = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't "
    "he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't "
    "must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd "
    "something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're "
    "they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've "
    "who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll "
    "y'all'd've you'd you'd've you'll you're you've "
)
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # this way round in the official table
_CURLY_CONTRACTIONS = {key.replace("'", "’"): word.replace("'", "’") for key, word in _CONTRACTIONS.items()}
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_DIGITS_AROUND_COMMAS = re.compile(r"(?<=\d),+(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MAX_FULL_STOPS = 32
"""The official programs pass a flag in the place of a count, so that so many full stops are dropped at most."""


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer by the program of VQAv2, which OK-VQA uses too.

    If all ten answers are equal, nothing is cleaned: "Black." against ten times "black" is wrong.

    Args:
        prediction: the answer.
        answers: of the ten people.

    Returns:
        0 to 1: right with 4 of them is 1, with 1, 2, 3 of them 0.3, 0.6, 0.9.
    """
    prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = clean_vqa(prediction), [clean_vqa(answer) for answer in answers]
    return _agreement(prediction, answers)


def vqa_accuracy_always_cleaned(prediction: str, answers: Sequence[str]) -> float:
    """As :func:`vqa_accuracy`, but with clean texts also where all ten answers are equal. It is not official."""
    return _agreement(clean_vqa(_one_line(prediction)), [clean_vqa(_one_line(answer)) for answer in answers])


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer by the program of TextVQA, which cleans all texts.

    Raises:
        ValueError: there are not ten answers.
    """
    if len(answers) != NUM_ANSWERS:
        raise ValueError(f"There are {len(answers)} answers; TextVQA has {NUM_ANSWERS}.")
    return _agreement(clean_textvqa(prediction), [clean_textvqa(answer) for answer in answers])


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer by the program of VizWiz, which cleans the prediction and not the answers: "two" is never
    right, because it becomes "2"."""
    cleaned = _common_words(_without_punctuation(_one_line(prediction), _DIGIT_COMMA_DIGIT), _CURLY_CONTRACTIONS)
    return _agreement(cleaned, [_one_line(answer) for answer in answers])


def clean_vqa(text: str) -> str:
    """A text without the differences that VQAv2's program does not count."""
    return _common_words(_without_punctuation(text, _DIGIT_COMMA_DIGIT), _CONTRACTIONS)


def clean_textvqa(text: str) -> str:
    """A text without the differences that TextVQA's program does not count."""
    text = _one_line(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())
    return _common_words(_without_punctuation(text, _DIGITS_AROUND_COMMAS), _CONTRACTIONS)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str, comma: re.Pattern[str]) -> str:
    """A mark is dropped where it stands beside a space anywhere, or any digits are parted by a comma; else it becomes a
    space."""
    has_thousands = comma.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        dropped = has_thousands or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if dropped else " ")
    return _FULL_STOP.sub("", cleaned, count=_MAX_FULL_STOPS)


def _common_words(text: str, contractions: dict[str, str]) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the answers of min(1, matches among the others / 3)."""
    matches = sum(prediction == answer for answer in answers)
    matched, other = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (matches * matched + (len(answers) - matches) * other) / len(answers) if answers else 0.0
