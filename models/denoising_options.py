"""How images are drawn: the options, without the libraries that draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SchedulerName = Literal["ddim", "dpm", "ddpm"]


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """How images are drawn.

    Raises:
        ValueError: an unknown scheduler, or less than one step.
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
        if self.scheduler not in get_args(SchedulerName):
            raise ValueError(f"scheduler is {self.scheduler!r}; expected one of {', '.join(get_args(SchedulerName))}.")
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {self.num_inference_steps}; expected at least 1.")

    @property
    def is_guided(self) -> bool:
        """Whether a prediction without the context is needed."""
        return self.guidance_scale != 1 or self.uses_image_guidance

    @property
    def uses_image_guidance(self) -> bool:
        """Whether a prediction without images is needed."""
        return self.image_guidance_scale != 1
