"""The emoji world: small runs from nothing to a model that reads and draws."""

from __future__ import annotations

from dataclasses import replace

from models import MMInterleavedConfig
from trainer.config import EncoderPretrainingConfig, OptimConfig, TrainConfig
from trainer.data.config import DataConfig
from trainer.system_config import CheckpointConfig, LoggingConfig


def toy() -> TrainConfig:
    """The emoji world in a few minutes on two CPU cores, from the weights that came with the repository."""
    steps = toy_steps()
    return replace(
        steps,
        recipe="toy",
        out="runs/toy",
        init="trainer/weights/toy",
        num_steps=240,
        optim=replace(steps.optim, lr=3e-4, warmup_steps=20),
        max_minutes=6.0,
    )


def toy_steps() -> TrainConfig:
    """From toy_search's weights to ones that also draw what they planned in writing, and that still answer directly a
    question without "step by step". The shipped weights saw three times as many steps of like mixtures
    (their training.json)."""
    search = toy_search()
    return replace(
        search,
        recipe="toy_steps",
        out="runs/toy_steps",
        init="runs/toy_search/model",
        model=_with_places(search.model, text_drop=0.03),
        data=replace(
            search.data,
            tasks={  # in this order, which decides with the seed which document comes when
                "read_steps": 2.0,
                "compare_steps": 1.2,
                "ground_steps": 1.5,
                "caption": 3.0,
                "draw": 3.0,
                "label_map_steps": 2.5,
                "story_steps": 4.0,
                "label_map": 0.3,
                "story": 0.3,
                "read": 0.3,
                "ground": 0.3,
                "compare": 0.3,
                "arrange_steps": 1.0,
                "arrange": 0.5,
            },
        ),
        num_steps=4800,
    )


def toy_draw() -> TrainConfig:
    """From toy_steps' weights: the image decoder alone learns to put two things where the plan says, and all that reads
    and writes stays as it is. Most images are made after a plan, whose words say of each place what stands there.

    What an image without text looks like is not learned here, so draw with guidance_scale 1 afterwards, or go on with
    `--model.image_decoder.text_drop 0.03` for some hundred steps."""
    steps = toy_steps()
    return replace(
        steps,
        recipe="toy_draw",
        out="runs/toy_draw",
        init="runs/toy_steps/model",
        frozen=["all_but_image_decoder"],
        model=_with_places(steps.model, text_drop=0.0, timestep_bias_multiplier=16.0),
        data=replace(
            steps.data,
            tasks={
                "arrange_steps": 6.0,
                "story_steps": 3.0,
                "draw": 1.2,
                "label_map_steps": 1.0,
                "arrange": 0.5,
                "story": 0.3,
                "label_map": 0.3,
            },
        ),
        num_steps=4000,
    )


def _with_places(
    model: MMInterleavedConfig, *, text_drop: float, timestep_bias_multiplier: float = 6.0
) -> MMInterleavedConfig:
    """Where a thing stands is decided in the noisiest steps, which are therefore drawn more often. In them an image
    without its text has ten times the loss of one with it: were a tenth of the texts dropped as usual, what such images
    add to the gradient would hide the places (bench/LOG.md)."""
    decoder = replace(
        model.image_decoder,
        text_drop=text_drop,
        timestep_bias_multiplier=timestep_bias_multiplier,
        timestep_bias_portion=0.2,
    )
    return replace(model, image_decoder=decoder)


def toy_search() -> TrainConfig:
    """From toy_refine's weights: answers that search in writing, alone at first: a step of them costs half of one
    that also draws, and to stop at the thing asked for takes many questions to learn (bench/LOG.md)."""
    refine = toy_refine()
    return replace(
        refine,
        recipe="toy_search",
        out="runs/toy_search",
        init="runs/toy_refine/model",
        data=replace(
            refine.data,
            tasks={"read_steps": 3.0, "compare_steps": 3.0, "ground_steps": 3.0, "caption": 0.5},
        ),
        num_steps=2400,
    )


def toy_refine() -> TrainConfig:
    """Longer, with more drawing and reading, for the weights of toy_scratch."""
    scratch = toy_scratch()
    return replace(
        scratch,
        recipe="toy_refine",
        out="runs/toy_refine",
        init="runs/toy_scratch/model",
        data=replace(
            scratch.data,
            ramp_steps=0,
            tasks={
                "caption": 2.5,
                "draw": 9.0,
                "read": 3.5,
                "label_map": 1.2,
                "ground": 1.5,
                "compare": 1.0,
                "story": 0.8,
            },
        ),
        num_steps=1700,
        optim=replace(scratch.optim, warmup_steps=50),
        encoder_pretraining=replace(scratch.encoder_pretraining, num_steps=0),
    )


def toy_scratch() -> TrainConfig:
    """The emoji world from random weights: how the shipped weights began."""
    optim = OptimConfig(
        lr=1e-3,
        betas=(0.9, 0.98),
        eps=1e-8,
        weight_decay=0.02,
        warmup_steps=100,
        sampling_offsets_lr_factor=1.0,
    )
    return TrainConfig(
        recipe="toy_scratch",
        out="runs/toy_scratch",
        model=MMInterleavedConfig.toy(),
        data=DataConfig(
            num_rows=4,
            row_tokens=256,  # for five questions about four images
            num_concepts=20,
            num_sprites=6,
            ramp_steps=200,
            tasks={
                "caption": 1.5,
                "draw": 4.5,
                "read": 2.0,
                "label_map": 2.5,
                "ground": 0.8,
                "compare": 0.8,
                "story": 1.5,
            },
        ),
        num_steps=2000,
        optim=optim,
        encoder_pretraining=EncoderPretrainingConfig(num_steps=1500, optim=replace(optim, lr=2e-3)),
        freeze_encoder=True,
        ema_decay=0.995,
        checkpoint=CheckpointConfig(every=100),
    )


def tiny() -> TrainConfig:
    """The smallest model for a few steps: the run that the tests make."""
    return TrainConfig(
        recipe="tiny",
        out="runs/tiny",
        model=MMInterleavedConfig.tiny(),
        data=DataConfig(num_rows=2, row_tokens=96, num_concepts=12, num_sprites=3),
        num_steps=6,
        optim=OptimConfig(lr=1e-3, warmup_steps=2),
        encoder_pretraining=EncoderPretrainingConfig(
            num_steps=2, images_per_step=2, optim=OptimConfig(lr=1e-3, warmup_steps=1)
        ),
        ema_decay=0.9,
        logging=LoggingConfig(every=2),
        checkpoint=CheckpointConfig(every=3),
        num_threads=1,  # this small, more threads only wait for each other
        num_workers=0,
    )
