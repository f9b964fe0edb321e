"""How large the comparisons are: the model, the lessons and how long they last, for a CPU and for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from models import MMInterleavedConfig
from trainer.config import EncoderPretrainingConfig, TrainConfig
from trainer.data.config import DataConfig
from trainer.recipes import toy_scratch

SHIPPED = Path("trainer/weights/toy")

IMAGES_A_ROW = 4
"""About how many images a row of questions has: with more visual tokens each, rows get longer, not emptier."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What the runs of a comparison learn, and how long."""

    name: str
    tasks: Mapping[str, float]
    """As in `DataConfig`."""

    num_steps: int
    num_rows: int
    num_sprites: int
    """The most sprites in an image to read numbers from."""

    step_s: float
    """Seconds of a step, to tell how long it will take."""

    evaluation_s: float
    """Seconds of the evaluation."""

    ramp_steps: int = 0
    row_tokens: int = 128
    """Of a row whose images have as many visual tokens as the base's."""

    def data(self, base: DataConfig, num_tokens: int, num_visual_tokens: int | None) -> DataConfig:
        """The data of a run whose images have `num_visual_tokens` tokens; None: `num_tokens`, the base's."""
        more = 0 if num_visual_tokens is None else (num_visual_tokens - num_tokens) * IMAGES_A_ROW
        return replace(
            base,
            tasks=dict(self.tasks),
            num_rows=self.num_rows,
            num_sprites=self.num_sprites,
            ramp_steps=self.ramp_steps,
            row_tokens=self.row_tokens + max(0, more),
        )


@dataclass(frozen=True)
class Scale:
    """Sizes that go together."""

    name: str
    recipe: Callable[[], TrainConfig]
    """Model, world and optimiser of all runs."""

    lessons: Mapping[str, Lesson]
    encoder: Path | None
    """A model with a pre-trained visual tokenizer. None: the command pre-trains one first, as the recipe says."""

    num_texts: int
    """Held-out documents a family that are answered in writing."""

    num_images: int
    """Held-out label maps to draw from."""

    num_drawing_steps: int
    machine: str
    """What its times are meant for."""

    num_workers: int = 0
    note: str = ""
    """What has to be known about its results."""


def _cpu_recipe() -> TrainConfig:
    return replace(toy_scratch(), ema_decay=0.98, num_threads=1)


def _by_name(*lessons: Lesson) -> dict[str, Lesson]:
    return {lesson.name: lesson for lesson in lessons}


CPU = Scale(
    "cpu",
    _cpu_recipe,
    _by_name(
        Lesson("search", {"read_steps": 1.0}, 1300, 8, 6, ramp_steps=200, step_s=0.26, evaluation_s=25.0),
        Lesson(
            "search_images",
            {"read_steps": 1.0, "compare_steps": 1.0},
            2600,
            4,
            6,
            ramp_steps=200,
            row_tokens=256,
            step_s=0.26,
            evaluation_s=60.0,
        ),
        Lesson("questions", {"read": 1.0, "compare": 1.0}, 440, 8, 4, ramp_steps=120, step_s=0.45, evaluation_s=25.0),
        Lesson("label_map", {"label_map": 1.0}, 180, 4, 4, step_s=0.8, evaluation_s=15.0),
    ),
    SHIPPED,
    num_texts=96,
    num_images=32,
    num_drawing_steps=12,
    machine="one free core",
)


def gpu_model() -> MMInterleavedConfig:
    """About 28 M parameters: reads 128-pixel images, draws 64-pixel ones."""
    toy = MMInterleavedConfig.toy()
    vision, lm, decoder = toy.visual_tokenizer, toy.language_model, toy.image_decoder
    assert lm.mmfs is not None, "the toy language model has MMFS"
    assert decoder.mmfs is not None, "the toy image decoder has MMFS"
    return replace(
        toy,
        visual_tokenizer=replace(
            vision,
            vision_encoder=vision.vision_encoder
            | {
                "hidden_size": 192,
                "num_hidden_layers": 6,
                "num_attention_heads": 6,
                "intermediate_size": 768,
                "image_size": 128,
                "patch_size": 8,
            },
            resampler_dim=192,
            adapter_heads=6,
            prior_channels=32,
        ),
        language_model=replace(
            lm,
            transformer=lm.transformer
            | {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 8},
            mmfs=replace(lm.mmfs, num_heads=8, value_dim=256),
        ),
        image_decoder=replace(
            decoder,
            image_size=64,
            unet=decoder.unet
            | {
                "sample_size": 16,
                "block_out_channels": (192, 128),
                "layers_per_block": 2,
                "cross_attention_dim": 256,
                "attention_head_dim": 8,
            },
            mmfs=replace(decoder.mmfs, num_heads=8, value_dim=256),
        ),
    )


def _gpu_recipe() -> TrainConfig:
    toy = toy_scratch()
    return replace(
        toy,
        model=gpu_model(),
        data=replace(toy.data, num_concepts=64),
        optim=replace(toy.optim, lr=5e-4),
        encoder_pretraining=EncoderPretrainingConfig(
            num_steps=1500, images_per_step=128, optim=replace(toy.optim, lr=1e-3)
        ),
    )


GPU = Scale(
    "gpu",
    _gpu_recipe,
    _by_name(
        Lesson("search", {"read_steps": 1.0}, 1600, 64, 6, ramp_steps=200, step_s=0.1, evaluation_s=40.0),
        Lesson(
            "search_images",
            {"read_steps": 1.0, "compare_steps": 1.0},
            3200,
            32,
            6,
            ramp_steps=200,
            row_tokens=256,
            step_s=0.1,
            evaluation_s=100.0,
        ),
        Lesson("questions", {"read": 1.0, "compare": 1.0}, 1000, 64, 6, ramp_steps=300, step_s=0.1, evaluation_s=40.0),
        Lesson("label_map", {"label_map": 1.0}, 800, 32, 6, step_s=0.15, evaluation_s=40.0),
    ),
    None,
    num_texts=256,
    num_images=96,
    num_drawing_steps=24,
    machine="one large GPU, after the encoder's pre-training",
    num_workers=8,
    note="This scale has not been run: its sizes and times are plans.",
)

SCALES = {scale.name: scale for scale in (CPU, GPU)}
