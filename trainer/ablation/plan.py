"""What is compared: studies, whose arms differ in one thing and share seed, data and budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from models import MMInterleavedConfig
from trainer.ablation.scales import Lesson, Scale
from trainer.config import TrainConfig
from trainer.system_config import CheckpointConfig

PROGRAM = "python -m trainer.ablate"

GATE = 0.5
"""Where the gates of the language model's synchronizers start, unless a study is about them."""


@dataclass(frozen=True)
class Arm:
    """One way to build the model."""

    name: str
    """Of its directory."""

    label: str
    gate: float | None
    """Where the gates of the language model's synchronizers start; None: no MMFS, in the U-Net neither."""

    num_visual_tokens: int | None = None
    """None: as many as the pre-trained encoder makes, with its resampler. A number: so many, from a new resampler."""

    keeps_language_model: bool = False
    """Begin with the language model that the run without MMFS has trained, and keep it as it is: the paper's setting,
    in which the language model is pre-trained and frozen."""

    def model(self, base: MMInterleavedConfig) -> MMInterleavedConfig:
        """`base`, changed in what this arm is about."""
        if self.num_visual_tokens is not None:
            base = replace(
                base, visual_tokenizer=replace(base.visual_tokenizer, num_visual_tokens=self.num_visual_tokens)
            )
        if self.gate is None:
            return base.without_mmfs()
        return replace(base, language_model=replace(base.language_model, gate_init=self.gate))


WITHOUT = Arm("without", "without MMFS", None)
WITH = Arm("with", "with MMFS", GATE)


@dataclass(frozen=True)
class Study:
    """A question, and the arms that answer it."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    lessons: tuple[str, ...] = ("search",)
    """What is made unless other lessons are asked for."""


STUDIES = {
    study.name: study
    for study in (
        Study(
            "mmfs",
            "Does MMFS see what a few visual tokens lose?",
            (WITHOUT, WITH),
        ),
        Study(
            "gate",
            "Where does the gate of MMFS have to start?",
            (
                WITHOUT,
                Arm("gate_0", "gate from 0", 0.0),
                Arm("gate_0.1", "gate from 0.1", 0.1),
                WITH,
                Arm("frozen_without", "frozen language model, without MMFS", None, keeps_language_model=True),
                Arm("frozen_gate_0", "frozen language model, gate from 0", 0.0, keeps_language_model=True),
                Arm("frozen_gate_0.5", "frozen language model, gate from 0.5", GATE, keeps_language_model=True),
            ),
        ),
        Study(
            "visual_tokens",
            "Is the number of visual tokens the bottleneck?",
            tuple(
                Arm(f"{kind}_{count}_tokens", f"{tokens}, {kind} MMFS", gate, count)
                for count, tokens in ((1, "1 token"), (4, "4 tokens"), (16, "16 tokens"), (64, "64 tokens"))
                for kind, gate in (("without", None), ("with", GATE))
            ),
        ),
    )
}


@dataclass(frozen=True)
class Run:
    """One training and its evaluation."""

    arm: Arm
    lesson: Lesson
    seed: int
    num_steps: int

    @property
    def place(self) -> Path:
        """Its directory below that of all runs. Studies share the runs that they have in common."""
        return Path(self.lesson.name) / self.arm.name / f"{self.num_steps}_steps" / f"seed_{self.seed}"

    @property
    def label(self) -> str:
        """How it is announced."""
        return f"{self.lesson.name}, {self.arm.label}, seed {self.seed}, {self.num_steps} steps"

    def config(self, scale: Scale, out: Path, start: Path, max_minutes: float | None) -> TrainConfig:
        """Its settings.

        Args:
            scale: the sizes.
            out: the directory of all runs.
            start: the model whose visual tokenizer it begins with; that it begins with as a whole, if it keeps its
                language model.
            max_minutes: as in `TrainConfig`.
        """
        base = scale.recipe()
        return replace(
            base,
            out=str(out / self.place),
            model=self.arm.model(base.model),
            data=self.lesson.data(base.data, base.model.visual_tokenizer.num_visual_tokens, self.arm.num_visual_tokens),
            num_steps=self.num_steps,
            optim=replace(base.optim, warmup_steps=max(1, self.num_steps // 8)),
            encoder_pretraining=replace(base.encoder_pretraining, num_steps=0),
            init=str(start),
            init_components=None if self.arm.keeps_language_model else ["visual_tokenizer"],
            frozen=["language_model"] if self.arm.keeps_language_model else [],
            seed=self.seed,
            max_minutes=max_minutes,
            num_workers=scale.num_workers,
            checkpoint=CheckpointConfig(every=max(1, self.num_steps // 4), keep_latest=1),
        )

    def without_mmfs(self) -> Run:
        """The run that differs from this one in having no MMFS."""
        return replace(self, arm=WITHOUT)

    def nominal_s(self, scale: Scale) -> float:
        """Seconds that it takes on a free core, as far as is known."""
        base = scale.recipe()
        data = self.lesson.data(base.data, base.model.visual_tokenizer.num_visual_tokens, self.arm.num_visual_tokens)
        longer = data.row_tokens / self.lesson.row_tokens
        return self.lesson.step_s * longer * self.num_steps + self.lesson.evaluation_s


@dataclass(frozen=True)
class Plan:
    """What one command makes: the runs of a study."""

    study: Study
    scale: Scale
    lessons: tuple[str, ...]
    """What the runs learn; names of the scale's lessons."""

    num_seeds: int
    """Seeds 0, 1, ..."""

    budget: float = 1.0
    """Steps of each run, as a multiple of the lesson's."""

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that an early stop leaves whole comparisons."""
        return [
            Run(arm, lesson, seed, max(1, round(lesson.num_steps * self.budget)))
            for seed in range(self.num_seeds)
            for lesson in (self.scale.lessons[name] for name in self.lessons)
            for arm in self.study.arms
        ]

    @property
    def name(self) -> str:
        """Of its table: the study's, and what differs from it."""
        lessons = self.lessons if self.lessons != self.study.lessons else ()
        budget = (f"{self.budget:g}x",) if self.budget != 1 else ()
        return "_".join((self.study.name, *lessons, *budget))

    @property
    def command(self) -> str:
        """What makes it, without the place."""
        words = [PROGRAM, self.study.name, f"--scale {self.scale.name}", f"--seeds {self.num_seeds}"]
        if self.lessons != self.study.lessons:
            words.append(f"--lessons {' '.join(self.lessons)}")
        if self.budget != 1:
            words.append(f"--budget {self.budget:g}")
        return " ".join(words)
