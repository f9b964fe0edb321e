"""`GET /v1/mmfs/props`: what a model and its server can do, so that a page can offer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from export.serve.protocol.options import RANDOM_SEEDS, ImageFormat, Template
from export.serve.settings import Settings
from models.config import MMInterleavedConfig
from models.denoising_options import SchedulerName
from models.generation.options import MAX_SEED, GenerationOptions, Mode, Overflow
from models.generation.prompts import PROMPTS

CHOICES: dict[str, tuple[str, ...]] = {
    "mode": get_args(Mode),
    "scheduler": get_args(SchedulerName),
    "overflow": get_args(Overflow),
    "image_format": get_args(ImageFormat),
    "template": get_args(Template),
}
MEANINGS: dict[str, str] = {
    "mode": "Text and images, text alone, or an image right away.",
    "max_new_tokens": "Tokens written at most; an image counts as one.",
    "min_new_tokens": "The text does not end before it has so many tokens.",
    "max_new_images": "Images drawn at most.",
    "temperature": "0 takes the likeliest word; more is more varied.",
    "top_p": "Only from the likeliest words that together have this probability.",
    "top_k": "Only from so many of the likeliest words; 0: from all.",
    "num_beams": "Above 1: beam search, for text alone.",
    "length_penalty": "With beams: above 0 favours long texts.",
    "repetition_penalty": "Above 1: words that were written become less likely.",
    "seed": "The same number gives the same answer; none: a new one each time.",
    "num_return_sequences": "Answers at once.",
    "num_inference_steps": "Denoising steps for each image.",
    "guidance_scale": "How closely an image follows the document; 1: no guidance.",
    "image_guidance_scale": "How closely it follows the document's images.",
    "scheduler": "How an image is drawn.",
    "overflow": "What to do with a document that is too long: refuse it, or leave out its oldest parts.",
    "preview_every": "Denoising steps between two previews; 0: none.",
    "image_format": "How an answer holds images.",
    "template": "What stands around the turns of a conversation.",
}
LEAST: dict[str, float] = {"max_new_tokens": 0, "max_new_images": 0}
"""Of options with no upper end but the server's limit; 1 for those that are not here."""

BETWEEN: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0.01, 1),
    "top_k": (0, 1000),
    "length_penalty": (-5, 5),
    "repetition_penalty": (1, 2),
    "seed": (0, min(MAX_SEED, RANDOM_SEEDS - 1)),
    "guidance_scale": (0, 20),
    "image_guidance_scale": (0, 20),
    "num_inference_steps": (1, 200),
    "preview_every": (0, 100),
    "min_new_tokens": (0, 100),
}
"""Ranges that make sense for a control; the library takes more."""


def props_of(settings: Settings, config: MMInterleavedConfig, *, tells_locations: bool) -> dict[str, Any]:
    """Everything that a client may want to know.

    Args:
        settings: of the server.
        config: of the model.
        tells_locations: whether `sampling_locations` may be asked for.
    """
    usual, limits = _usual(settings), asdict(settings.options)
    return {
        "object": "mmfs.props",
        "model": settings.name,
        "image_size": list(config.image_size),
        "drawn_image_size": list(config.drawn_image_size),
        "max_context_tokens": config.language_model.max_tokens,
        "num_visual_tokens": config.visual_tokenizer.num_visual_tokens,
        "template": settings.template,
        "tasks": [
            {"name": name, "mode": prompt.mode, "prompt": prompt.opening + prompt.round + prompt.closing}
            for name, prompt in PROMPTS.items()
        ],
        "schedulers": list(get_args(SchedulerName)),
        "sampling_locations": tells_locations,
        "options": [_option(name, usual[name], limits) for name in MEANINGS],
        "limits": {
            **limits,
            **asdict(settings.content),
            "max_body_bytes": settings.max_body_bytes,
            "timeout": settings.timeout,
            "keep": settings.keep,
        },
    }


def _option(name: str, usual: Any, limits: Mapping[str, int]) -> dict[str, Any]:
    """An option as a control would show it."""
    described: dict[str, Any] = {"name": name, "default": usual, "meaning": MEANINGS[name]}
    if name in CHOICES:
        return {**described, "type": "choice", "choices": list(CHOICES[name])}
    least, most = BETWEEN.get(name, (LEAST.get(name, 1), None))
    is_whole = name == "seed" or isinstance(usual, int)
    return {
        **described,
        "type": "integer" if is_whole else "number",
        "least": least,
        "most": limits.get(name, most),
    }


def _usual(settings: Settings) -> dict[str, Any]:
    own = {"preview_every": 0, "image_format": "images", "template": settings.template}
    return {**asdict(GenerationOptions()), **own, "temperature": 0.0, "seed": None}
