"""What a caller may ask of `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

from models.denoising_options import Denoising, SchedulerName
from models.number_options import real_number, whole_number

Mode = Literal["auto", "text", "image"]
Overflow = Literal["error", "cut"]

MAX_SEED = 2**63 - 1
LEAST_TEMPERATURE = 1e-6
MOST_COPIES = 1000
"""Beams or continuations of a document; each is a copy of what it has read."""

SEED_STRIDE = 1_000_003
"""Distance between the seeds of two continuations of a document; the n-th image of one uses its seed + n."""

OTHER_WORDS = {
    "max_length": "max_new_tokens, which counts what is written alone",
    "min_length": "min_new_tokens, which counts what is written alone",
    "stop_strings": "stop",
    "stopping_criteria": "stop, or generate_stream, which can be left or closed at any item",
    "eos_token_id": "stop; the end token is the configuration's",
    "streamer": "generate_stream, which yields text and images as they are made",
    "generator": "seed",
    "input_ids": "documents, a list of texts and images",
    "inputs": "documents, a list of texts and images",
    "pixel_values": "documents, a list of texts and images",
    "num_images_per_prompt": "num_return_sequences, or max_new_images for several in one document",
    "negative_prompt": "no option: guidance_scale guides away from a condition that was learned",
    "height": "no option: the drawn size is the configuration's, image_decoder.image_size",
    "width": "no option: the drawn size is the configuration's, image_decoder.image_size",
    "output_attentions": "sampling_locations, which are what MMFS attends to in images",
    "generation_config": "the options themselves, as keyword arguments",
    "return_dict_in_generate": "no option: what is returned is a list of segments, with finish_reason, images and text",
}
"""Options of transformers and diffusers, and the options here that correspond to them."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """The keyword arguments of `MMInterleaved.generate`.

    Raises:
        ValueError: an argument outside its range, or two that do not go together.
    """

    mode: Mode = "auto"
    """"auto": text and, where the model writes `<BoI>`, images. "text": never an image. "image": `max_new_images`
    images right away."""

    max_new_tokens: int = 64
    """Tokens written at most for each document; an image counts as one."""

    min_new_tokens: int = 0
    """The end token is not written before a document's new text has so many tokens; a stop text may end it earlier."""

    max_new_images: int = 1
    """Images drawn at most for each document."""

    do_sample: bool | None = None
    """Draw the next token at random, by its probability, or take the likeliest. None: draw if `temperature` is above
    0."""

    temperature: float | None = None
    """Of the sampling: the logits are divided by it. 0 takes the likeliest token. None: 1 with `do_sample`, else 0."""

    top_p: float = 1.0
    """When sampling, only from the likeliest tokens that together hold this probability."""

    top_k: int = 0
    """When sampling, only from so many of the likeliest tokens; 0: from all."""

    num_beams: int = 1
    """Above 1, beam search with so many beams, for mode "text" with temperature 0: the texts that lead to two images
    cannot be compared without comparing the images."""

    length_penalty: float = 1.0
    """With beams, a text is worth its log-probability over its length to this power: above 0 favours long ones."""

    repetition_penalty: float = 1.0
    """Above 1, tokens that are in the document's new text already become less likely (CTRL, arXiv:1909.05858, section
    4.1); the prompt does not count."""

    seed: int | Sequence[int] = 0
    """Of the sampling and of the images: one for each document, or one that each document uses as if it were alone.
    Numbers from 0 to 2**63 - 1."""

    num_return_sequences: int = 1
    """Continuations of each document; the first is what a single one would be, the others have seeds of their own."""

    stop: str | Sequence[str] | None = ()
    """Texts that end a document; they are left out of the result. None: there are none."""

    num_inference_steps: int = 30
    """Denoising steps for each image."""

    guidance_scale: float = 3.5
    """See `Denoising`, as for the next two."""

    image_guidance_scale: float = 1.0
    scheduler: SchedulerName = "ddim"

    sampling_locations: bool = False
    """Record where MMFS samples the images for each written token and each drawn image: `Generated.sampling_locations`.
    It costs little time, and memory: `SamplingLocations.num_bytes`."""

    sampling_locations_steps: Sequence[int] = (-1,)
    """The denoising steps of which locations are kept: from 1 to `num_inference_steps`, negative ones from the end."""

    overflow: Overflow = "error"
    """When a document would run past the language model's length. "error": `ContextFull`, a ValueError that says by how
    much. "cut": its oldest segments, whole ones, are left out until all that may be written fits too; should it still
    become too long, it ends there."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("mode", self.mode, get_args(Mode)),
            ("overflow", self.overflow, get_args(Overflow)),
        ):
            if not isinstance(value, str) or value not in allowed:
                names = [repr(one) for one in allowed]
                raise ValueError(f"{name} is {value!a}; expected {', '.join(names[:-1])} or {names[-1]}.")
        if not isinstance(self.sampling_locations, bool):
            raise ValueError(f"sampling_locations is {self.sampling_locations!a}; expected True or False.")
        stops = () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
            raise ValueError(f"stop is {stops!a}; expected a text, a list of texts, or None.")
        is_bool = isinstance(self.do_sample, bool) or getattr(getattr(self.do_sample, "dtype", None), "kind", "") == "b"
        if self.do_sample is not None and not is_bool:
            raise ValueError(f"do_sample is {self.do_sample!a}; expected True, False or None.")
        checked: dict[str, Any] = {
            "max_new_tokens": whole_number("max_new_tokens", self.max_new_tokens, least=0),
            "min_new_tokens": whole_number("min_new_tokens", self.min_new_tokens, least=0),
            "max_new_images": whole_number("max_new_images", self.max_new_images, least=0),
            "do_sample": None if self.do_sample is None else bool(self.do_sample),
            "top_p": real_number("top_p", self.top_p, above=0, most=1),
            "top_k": whole_number("top_k", self.top_k, least=0),
            "num_beams": whole_number("num_beams", self.num_beams, least=1, most=MOST_COPIES),
            "length_penalty": real_number("length_penalty", self.length_penalty, least=-50, most=50),
            "repetition_penalty": real_number("repetition_penalty", self.repetition_penalty, least=1e-6, most=1e6),
            "seed": _checked_seed(self.seed),
            "num_return_sequences": whole_number(
                "num_return_sequences", self.num_return_sequences, least=1, most=MOST_COPIES
            ),
            "stop": tuple(stops),
        }
        if self.temperature is not None:
            checked["temperature"] = real_number("temperature", self.temperature, least=0, most=1e6)
            if 0 < checked["temperature"] < LEAST_TEMPERATURE:
                raise ValueError(
                    f"temperature is {self.temperature:g}; expected 0, which takes the likeliest token, or at least "
                    f"{LEAST_TEMPERATURE:g}: logits divided by less are too large for float32."
                )
        denoising = self.denoising
        for name in ("num_inference_steps", "guidance_scale", "image_guidance_scale"):
            checked[name] = getattr(denoising, name)
        checked["sampling_locations_steps"] = _checked_steps(
            self.sampling_locations_steps, checked["num_inference_steps"]
        )
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # numpy's numbers as Python's
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens} and max_new_tokens {self.max_new_tokens}; expected no more."
            )
        if self.do_sample is not None and self.temperature is not None and self.do_sample != (self.temperature > 0):
            raise ValueError(
                f"do_sample is {self.do_sample} and temperature is {self.temperature}, which "
                f"{'samples' if self.temperature else 'takes the likeliest token'}. Give one of them."
            )
        if self.num_beams > 1 and (self.mode != "text" or self.samples):
            raise ValueError(
                f"num_beams is {self.num_beams} with mode {self.mode!r} and temperature {self.sampling_temperature}. "
                "Beam search writes text alone and does not sample: set mode='text' and temperature=0, or num_beams=1."
            )
        if self.num_return_sequences > 1 and self.mode == "text" and not self.samples:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences} and nothing is random, so all would be equal"
                f"{'; beam search returns its best text alone' if self.num_beams > 1 else ''}. Set a temperature above "
                "0, with num_beams=1."
            )
        if self.mode == "image" and self.max_new_images == 0:
            raise ValueError("mode is 'image' but max_new_images is 0; allow at least one image.")
        if "" in self.stops:
            raise ValueError("stop holds an empty text, which would end every document at once; leave it out.")

    @property
    def denoising(self) -> Denoising:
        """How images are drawn."""
        return Denoising(
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            image_guidance_scale=self.image_guidance_scale,
            scheduler=self.scheduler,
        )

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.sampling_temperature > 0

    @property
    def sampling_temperature(self) -> float:
        """The temperature; 0 takes the likeliest token."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.do_sample else 0.0

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a document."""
        assert isinstance(self.stop, tuple), "it has been checked"
        return self.stop

    @property
    def recorded_steps(self) -> frozenset[int]:
        """The denoising steps of which sampling locations are kept, from 1."""
        if not self.sampling_locations:
            return frozenset()
        return frozenset(
            step if step > 0 else self.num_inference_steps + 1 + step for step in self.sampling_locations_steps
        )

    @property
    def num_recorded_steps(self) -> int:
        """How many those are."""
        return len(self.recorded_steps)

    def seeds(self, num_documents: int) -> list[int]:
        """One for each continuation, those of a document side by side.

        Raises:
            ValueError: the caller gave another number of them.
        """
        seeds = [self.seed] * num_documents if isinstance(self.seed, int) else list(self.seed)
        if len(seeds) != num_documents:
            raise ValueError(f"There are {len(seeds)} seeds for {num_documents} documents; expected one each.")
        return [seed + SEED_STRIDE * copy for seed in seeds for copy in range(self.num_return_sequences)]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> GenerationOptions:
        """The options with these names and values.

        Raises:
            TypeError: there is none of that name; for a name of transformers or diffusers, the message has ours.
            ValueError: a value is outside its range.
        """
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = OTHER_WORDS.get(name) or (near[0] if near else f"one of {', '.join(known)}")
                raise TypeError(f"generate has no option {name!r}. Expected {hint}.")
        return cls(**given)

    def most_new_places(self, num_visual_tokens: int) -> int:
        """Places of the language model that a document may take on top of its prompt."""
        if self.mode == "image":
            return self.max_new_images * (1 + num_visual_tokens)
        images = 0 if self.mode == "text" else self.max_new_images
        return self.max_new_tokens + images * num_visual_tokens


def _checked_steps(steps: Any, num_steps: int) -> tuple[int, ...]:
    if not isinstance(steps, list | tuple | range):
        raise ValueError(f"sampling_locations_steps is {steps!a}; expected a list of steps.")
    numbers = tuple(
        whole_number(f"sampling_locations_steps[{place}]", step, least=-num_steps, most=num_steps)
        for place, step in enumerate(steps)
    )
    if 0 in numbers:
        raise ValueError("sampling_locations_steps holds 0; steps count from 1, negative ones from the end.")
    return numbers


def _checked_seed(seed: Any) -> int | tuple[int, ...]:
    is_several = isinstance(seed, Sequence) or getattr(seed, "ndim", 0) > 0  # or an array of them
    if not is_several or isinstance(seed, str | bytes):
        return whole_number("seed", seed, least=0, most=MAX_SEED)
    return tuple(whole_number(f"seed[{place}]", one, least=0, most=MAX_SEED) for place, one in enumerate(seed))
