"""Every option of `generate`, with what callers give by mistake."""

import math
import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from models import MMInterleaved
from models.generation.options import MAX_SEED, GenerationOptions

NUMBERS = {one.name for one in fields(GenerationOptions) if type(one.default) in (int, float)} | {"temperature"}
UNBOUNDED = {"max_new_tokens", "max_new_images", "top_k", "num_inference_steps"}
WRONG = [math.nan, math.inf, -math.inf, "2", [None], True, np.True_, 10**400, {}, np.float32("nan"), 1j, b"3"]


@pytest.mark.parametrize("name", sorted(NUMBERS))
@pytest.mark.parametrize("value", WRONG, ids=lambda value: str(value)[:12])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    if type(value) is int and name in UNBOUNDED:
        pytest.skip("any whole number is one")
    with pytest.raises(ValueError, match=rf"^{name}(\[0\])? is .*; expected"):
        GenerationOptions(**{name: value})


def test_the_list_of_numbers_is_whole() -> None:
    assert {"max_new_tokens", "seed", "guidance_scale", "top_p", "length_penalty", "num_beams"} <= NUMBERS


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; expected a whole number of at least 0"),
        ({"seed": 2**64}, f"seed is {2**64}; expected a whole number from 0 to {MAX_SEED}"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": [0, 1.5]}, r"seed\[1\] is 1.5"),
        ({"seed": None}, "seed is None"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        (
            {"temperature": 1e-30},
            "temperature is 1e-30; expected 0, .*, or at least 1e-06",
        ),
        ({"temperature": 1e30}, "temperature is 1e.30; expected a finite number"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty is 1e-300"),
        ({"length_penalty": 1000}, "length_penalty is 1000"),
        ({"num_return_sequences": 10**9}, "num_return_sequences is 1000000000"),
        ({"num_beams": 10**9, "mode": "text"}, "num_beams is 1000000000"),
        ({"stop": 3}, "stop is 3; expected a text, a list of texts, or None"),
        ({"stop": ["a", None]}, r"stop is \['a', None\]"),
        ({"stop": b"a"}, "stop is b'a'"),
        ({"do_sample": 1}, "do_sample is 1; expected True, False or None"),
        ({"do_sample": "no"}, "do_sample is 'no'"),
        ({"mode": ["text"]}, r"mode is \['text'\]; expected 'auto', 'text' or 'image'"),
        ({"mode": "\x1b[2J"}, re.escape(r"mode is '\x1b[2J'")),
        ({"scheduler": None}, "scheduler is None; expected one of"),
        ({"overflow": None}, "overflow is None; expected"),
    ],
)
def test_a_wrong_value_gets_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GenerationOptions(**options)


def test_numbers_of_numpy_are_numbers() -> None:
    given = GenerationOptions(
        seed=np.array([3, 4]),  # type: ignore[arg-type]
        max_new_tokens=np.int32(5),
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        do_sample=np.True_,  # type: ignore[arg-type]
        top_k=torch.tensor(7),  # type: ignore[arg-type]
        stop=None,
    )
    assert given == GenerationOptions(seed=(3, 4), max_new_tokens=5, temperature=0.5, do_sample=True, top_k=7, stop=())
    assert given.seeds(2) == [3, 4]
    assert GenerationOptions(seed=np.int64(9)).seeds(1) == [9]  # type: ignore[arg-type]
    assert GenerationOptions(stop="a").stops == GenerationOptions(stop=["a"]).stops == ("a",)


def test_the_largest_seed_and_the_most_beams_work(model: MMInterleaved) -> None:
    drawn = model.generate(["a"], mode="image", seed=MAX_SEED, num_inference_steps=1, num_return_sequences=2)
    assert [len(one.images) for one in drawn] == [1, 1]
    model.generate(["a"], mode="text", num_beams=200, max_new_tokens=1)  # the vocabulary has fewer than 400 tokens
    model.generate(["a"], mode="text", temperature=1e-6, top_k=10**9, max_new_tokens=2)
    model.generate(["a"], mode="text", temperature=1e6, repetition_penalty=1e6, max_new_tokens=2)


def test_more_steps_than_there_are_is_told(model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match=r"num_inference_steps is 100000; this model was trained with \d+ steps"):
        model.generate(["a"], mode="image", num_inference_steps=100_000)


@torch.no_grad()
def test_nothing_is_made_of_nan(model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match="The image holds NaN"):
        model.processor.decode_image(torch.full((3, 2, 2), math.nan))
    next(model.language_model.host.parameters()).fill_(math.nan)
    for options in ({"temperature": 0}, {"temperature": 1}, {"num_beams": 2}):
        with pytest.raises(ValueError, match="logits hold NaN, so no token can be chosen"):
            model.generate(["a"], mode="text", max_new_tokens=2, **options)


@pytest.mark.parametrize("task", [["caption"], 3, "captoin"])
def test_a_task_that_is_none(model: MMInterleaved, task: Any) -> None:
    with pytest.raises(ValueError, match=r"task is .*; expected one of caption"):
        model.generate(["a"], task=task)


def test_text_that_is_no_unicode_is_told(model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        model.generate(["a\udcff"], max_new_tokens=1)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        model.score(["a"], ["\ud800"])
    with pytest.raises(ValueError, match=r"candidates\[1\] is a int; expected a text"):
        model.score(["a"], ["a", 3])  # type: ignore[list-item]
