"""How images are drawn: the options, without the libraries that draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from models.number_options import real_number, whole_number

SchedulerName = Literal["ddim", "dpm", "ddpm"]


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """How images are drawn.

    Raises:
        ValueError: an unknown scheduler, a number of steps that is none, or a scale that is not finite.
    """

    num_inference_steps: int = 30
    """Runs of the U-Net for each image."""

    guidance_scale: float = 3.5
    """Strength of classifier-free guidance by the context: 1 is no guidance, more strengthens it (paper B.3: 3.5)."""

    image_guidance_scale: float = 1.0
    """The same for the images that the U-Net attends to (InstructPix2Pix, arXiv:2211.09800, section 3.2.1). At 1 both
    predictions attend to the same images (the release); any other value costs a third one, without images. It needs
    a model trained with `image_drop`."""

    scheduler: SchedulerName = "ddim"
    """"ddim": deterministic. "dpm": DPM-Solver++, good in fewer steps. "ddpm": ancestral, noise in every step (the
    release)."""

    def __post_init__(self) -> None:
        if not isinstance(self.scheduler, str) or self.scheduler not in get_args(SchedulerName):
            raise ValueError(f"scheduler is {self.scheduler!a}; expected one of {', '.join(get_args(SchedulerName))}.")
        checked = {
            "num_inference_steps": whole_number("num_inference_steps", self.num_inference_steps, least=1),
            "guidance_scale": real_number("guidance_scale", self.guidance_scale),
            "image_guidance_scale": real_number("image_guidance_scale", self.image_guidance_scale),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # numpy's numbers as Python's

    @property
    def is_guided(self) -> bool:
        """Whether a prediction without the context is needed."""
        return self.guidance_scale != 1 or self.uses_image_guidance

    @property
    def uses_image_guidance(self) -> bool:
        """Whether a prediction without images is needed."""
        return self.image_guidance_scale != 1

    @property
    def num_predictions(self) -> int:
        """Predictions of the U-Net for each step of an image: with text and images, without text, and with neither."""
        return 3 if self.uses_image_guidance else 2 if self.is_guided else 1
