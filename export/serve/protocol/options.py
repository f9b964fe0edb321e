"""What a request asks of the model: the object `mmfs`, and OpenAI's own names for some of the same options."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

from export.serve.errors import invalid
from models.generation.options import GenerationOptions
from models.generation.prompts import PROMPTS
from models.json_files import shortened

ImageFormat = Literal["images", "markdown", "parts"]
"""How an answer holds images: in `message.images`, as links to this server in the text, or as parts of the content."""

Template = Literal["document", "chat"]
"""What stands around turns: nothing, as a base model has it, or the words of Vicuna."""

OWN_OPTIONS = ("preview_every", "image_format", "template", "task")
"""Fields of `mmfs` that are not `GenerationOptions`."""

LIBRARY_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "n": "num_return_sequences",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
}
"""OpenAI's names for the library's options."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "functions": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""OpenAI's options that this server does not have, and the values of them that ask for nothing."""

WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Fields of OpenAI's that ask for nothing that this server would do otherwise."""


RANDOM_SEEDS = 2**31
"""A request without a seed gets one of so many; the answer says which."""


@dataclass(frozen=True)
class OptionLimits:
    """What one request may ask for at most."""

    max_new_tokens: int = 4096
    max_new_images: int = 16
    num_beams: int = 16
    num_return_sequences: int = 8
    num_recorded_steps: int = 4
    """Of each drawing, with `sampling_locations`."""


@dataclass(frozen=True)
class Options:
    """All of it, checked."""

    generation: GenerationOptions
    preview_every: int = 0
    image_format: ImageFormat = "images"
    template: Template = "document"
    task: str | None = None


def parse_options(
    body: Mapping[str, Any],
    limits: OptionLimits,
    *,
    mode: str | None = None,
    image_format: ImageFormat = "images",
    template: Template = "document",
    names: Mapping[str, str] = LIBRARY_NAMES,
) -> Options:
    """The options of a request.

    Args:
        body: the request.
        limits: of what it may ask.
        mode: what its other fields ask for; `mmfs.mode` counts if they say nothing.
        image_format: unless `mmfs` says otherwise.
        template: unless `mmfs` says otherwise.
        names: which of its fields are options of the library.

    Raises:
        RequestError: an option that there is not, outside of its range or of the limits, or given twice differently.
    """
    own = body.get("mmfs")
    if own is None:
        own = {}
    if not isinstance(own, dict):
        raise invalid(f"mmfs is {shortened(own)}; expected an object with options.", "mmfs")
    own = {name: value for name, value in own.items() if value is not None}
    known = [*OWN_OPTIONS, *(one.name for one in fields(GenerationOptions))]
    for name in own:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            expected = near[0] if near else f"one of {', '.join(known)}"
            raise invalid(f"mmfs has no option {name!a}. Expected {expected}.", f"mmfs.{_as_word(name)}")
    places = {name: f"mmfs.{name}" for name in own}
    given = {name: value for name, value in own.items() if name not in OWN_OPTIONS}
    for outer, name in names.items():
        value = body.get(outer)
        if value is None:
            continue
        if name in given and given[name] != value:
            raise invalid(
                f"{outer} is {shortened(value)} and {places[name]} {shortened(given[name])}. Give one.", outer
            )
        given[name], places[name] = value, outer
    if mode is not None:
        if given.get("mode", mode) != mode:
            raise invalid(f"mmfs.mode is {given['mode']!a}, and the request asks for {mode!r}. Give one.", "mmfs.mode")
        given["mode"] = mode
    task = own.get("task")
    if task is not None:
        if not isinstance(task, str) or task not in PROMPTS:
            raise invalid(f"mmfs.task is {shortened(task)}; expected one of {', '.join(PROMPTS)}.", "mmfs.task")
        given.setdefault("mode", PROMPTS[task].mode)
    return Options(
        generation=_generation_options(given, limits, places),
        preview_every=_whole(own, "preview_every", 0),
        image_format=_one_of(own, "image_format", get_args(ImageFormat), image_format),
        template=_one_of(own, "template", get_args(Template), template),
        task=task,
    )


def _generation_options(given: Mapping[str, Any], limits: OptionLimits, places: Mapping[str, str]) -> GenerationOptions:
    given = {"seed": secrets.randbelow(RANDOM_SEEDS), **given}
    if not isinstance(given["seed"], int):
        raise invalid(f"{places['seed']} is {shortened(given['seed'])}; expected a whole number.", places["seed"])
    try:
        options = GenerationOptions.of(given)
    except (TypeError, ValueError) as error:
        raise invalid(str(error), param_of(str(error), places)) from error
    for limit in fields(limits):
        most, asked = getattr(limits, limit.name), getattr(options, limit.name)
        if asked > most:
            where = places.get(limit.name, limit.name)
            raise invalid(f"{where} is {asked}; this server allows at most {most}.", where)
    return options


def param_of(sentence: str, places: Mapping[str, str]) -> str | None:
    """The place in the request that one of the library's sentences is about: they begin with an option's name."""
    name = re.match(r"\w+", sentence)
    return places.get(name[0]) if name else None


def refuse_what_is_missing(body: Mapping[str, Any], known: frozenset[str]) -> list[str]:
    """Refuse what this server cannot do, and what looks like a slip.

    Args:
        body: the request.
        known: the fields that the endpoint reads.

    Returns:
        The names of all other fields, which have no effect.

    Raises:
        RequestError: an option of OpenAI's with a value that asks for something; or a name that is almost a known one.
    """
    without_effect = []
    for name, value in body.items():
        if value is None or name in known or name in WITHOUT_EFFECT:
            continue
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                raise invalid(f"{name} is {shortened(value)}, and this server has no such option. Leave it out.", name)
        elif near := get_close_matches(name, known | NEUTRAL.keys() | WITHOUT_EFFECT, n=1, cutoff=0.8):
            raise invalid(f"The request has {name!a}. Did you mean {near[0]}?", _as_word(name))
        else:
            without_effect.append(_as_word(name))
    return without_effect


def _as_word(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII) else ascii(name)[:64]


def _whole(own: Mapping[str, Any], name: str, usual: int) -> int:
    value = own.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise invalid(f"mmfs.{name} is {shortened(value)}; expected a whole number of at least 0.", f"mmfs.{name}")
    return value


def _one_of(own: Mapping[str, Any], name: str, allowed: tuple[Any, ...], usual: Any) -> Any:
    value = own.get(name, usual)
    if value not in allowed:
        names = " or ".join(repr(one) for one in allowed)
        raise invalid(f"mmfs.{name} is {shortened(value)}; expected {names}.", f"mmfs.{name}")
    return value
