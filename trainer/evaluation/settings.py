"""What decides the result of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from models.generation.options import MAX_SEED
from models.number_options import real_number, whole_number
from trainer.data.emoji.tasks import PRETRAINING_FAMILIES, STEP_FAMILIES
from trainer.errors import UsageError
from trainer.evaluation.tasks import EVALUATION_TASKS


@dataclass(frozen=True)
class Settings:
    """What decides the result of an evaluation, given the weights."""

    tasks: tuple[str, ...] = PRETRAINING_FAMILIES + STEP_FAMILIES
    """Also step by step: a model that has not learned it shows so in those alone."""

    num_texts: int = 48
    """Documents of each family that is answered in writing: validation documents 0, 1, 2, ..."""

    num_images: int = 24
    """Documents of each family that is answered with an image."""

    num_steps: int = 24
    """Denoising steps an image."""

    guidance_scale: float = 1.0
    seed: int = 0
    """Image i starts from the noise of seed + i."""

    data_seed: int = 0
    num_concepts: int = 32
    num_sprites: int = 9

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in EVALUATION_TASKS]
        if unknown or not self.tasks:
            raise UsageError(f"tasks are {list(self.tasks)}; expected some of {', '.join(EVALUATION_TASKS)}.")
        for name in ("num_texts", "num_images", "num_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        try:
            real_number("guidance_scale", self.guidance_scale)
            whole_number("seed", self.seed, least=0, most=MAX_SEED)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def num_documents(self, task: str) -> int:
        """How many documents of a family are evaluated."""
        return self.num_texts if EVALUATION_TASKS[task].kind == "text" else self.num_images
