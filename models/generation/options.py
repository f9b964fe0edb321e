"""What a caller may ask of `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from models.denoising import Denoising, SchedulerName

Mode = Literal["auto", "text", "image"]
Overflow = Literal["error", "cut"]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """The keyword arguments of `MMInterleaved.generate`.

    Raises:
        ValueError: an argument outside its range, or two that do not go together.
    """

    mode: Mode = "auto"
    """"auto": text and, where the model says `<BoI>`, images. "text": never an image. "image": `max_new_images` images
    right away."""

    max_new_tokens: int = 64
    """Tokens written at most for each document; an image counts as one."""

    max_new_images: int = 1
    """Images drawn at most for each document."""

    temperature: float = 0.0
    """0 takes the likeliest token; above, samples."""

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
    """Above 1, tokens that the document's new text holds already become less likely (CTRL, arXiv:1909.05858, section
    4.1); the prompt does not count."""

    seed: int | Sequence[int] = 0
    """Of the sampling and of the images: one for each document, or one that each document uses as if it were alone."""

    stop: str | Sequence[str] = ()
    """Texts that end a document; they are left out of the result."""

    num_inference_steps: int = 30
    """Denoising steps for each image."""

    guidance_scale: float = 3.5
    """See `Denoising`, as for the next two."""

    image_guidance_scale: float = 1.0
    scheduler: SchedulerName = "ddim"

    overflow: Overflow = "error"
    """When a document would run past the language model's length. "error": `ContextFull`, a ValueError that says by how
    much. "cut": its oldest segments, whole ones, are left out until all that may be written fits too; should it still
    become too long, it ends there."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("mode", self.mode, get_args(Mode)),
            ("overflow", self.overflow, get_args(Overflow)),
        ):
            if value not in allowed:
                names = [repr(one) for one in allowed]
                raise ValueError(f"{name} is {value!r}; expected {', '.join(names[:-1])} or {names[-1]}.")
        for name, number in (
            ("max_new_tokens", self.max_new_tokens),
            ("max_new_images", self.max_new_images),
            ("temperature", self.temperature),
            ("top_k", self.top_k),
        ):
            if number < 0:
                raise ValueError(f"{name} is {number}; expected at least 0.")
        if self.num_beams < 1:
            raise ValueError(f"num_beams is {self.num_beams}; expected at least 1, which is no beam search.")
        if self.num_beams > 1 and (self.mode != "text" or self.temperature > 0):
            raise ValueError(
                f"num_beams is {self.num_beams} with mode {self.mode!r} and temperature {self.temperature}. Beam "
                "search writes text alone and does not sample: set mode='text' and temperature=0, or num_beams=1."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected a probability in (0, 1].")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; expected more than 0, 1 for none.")
        if self.mode == "image" and self.max_new_images == 0:
            raise ValueError("mode is 'image' but max_new_images is 0; allow at least one image.")
        if "" in self.stops:
            raise ValueError("stop holds an empty text, which would end every document at once; leave it out.")
        _ = self.denoising

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
    def stops(self) -> tuple[str, ...]:
        """The texts that end a document."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def seeds(self, num_documents: int) -> list[int]:
        """One for each document.

        Raises:
            ValueError: the caller gave another number of them.
        """
        if isinstance(self.seed, int):
            return [self.seed] * num_documents
        if len(self.seed) != num_documents:
            raise ValueError(f"There are {len(self.seed)} seeds for {num_documents} documents; expected one each.")
        return list(self.seed)

    def most_new_places(self, num_visual_tokens: int) -> int:
        """Places of the language model that a document may take on top of its prompt."""
        if self.mode == "image":
            return self.max_new_images * (1 + num_visual_tokens)
        images = 0 if self.mode == "text" else self.max_new_images
        return self.max_new_tokens + images * num_visual_tokens
