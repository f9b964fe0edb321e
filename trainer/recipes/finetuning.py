"""The paper's fine-tuning (appendix B.2, Tables 12 to 15), and a chat; `trainer.finetune` gives the model of `--init`.

The tables give learning rates, steps, batches and sizes. CLIP, frozen in pre-training, stays frozen here; so does the
language model where a table gives it no learning rate and no text is learned.

A step fits 8 GPUs of 80 GB (`--estimate 8x80`). Where the language model of 13 B parameters learns whole, as the tables
have it for vqa and rec, and instruct too, it does because its layers are shared one by one (`parallel.shard_layers`).
"""

from __future__ import annotations

from dataclasses import replace

from models import MMInterleavedConfig
from models.component_names import FrozenComponent
from trainer.config import OptimConfig, TrainConfig
from trainer.data.config import CorpusConfig, DataConfig, SourceConfig
from trainer.recipes.paper import fitting, paper_model
from trainer.system_config import ParallelConfig


def vqa(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """Questions about images, and captions: images of 448 px, only the answer is learned (Table 12).

    16 rows of up to 16 questions are the table's batch of 256.
    """
    model = model or paper_model()
    return _finetuning(
        "vqa",
        replace(model, visual_tokenizer=replace(model.visual_tokenizer, image_size=(448, 448))),
        SourceConfig("", max_images_per_row=16),
        num_rows=16,
        num_steps=10_000,
        optim=_optim(1e-5, beta=0.999, warmup_steps=500, language_model_lr_factor=0.1),
        frozen=["vision_encoder", "image_decoder"],
        micro_batch_rows=1,  # of larger images
        shard_layers=True,
    )


def rec(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """Referring expressions: the box of what a sentence describes, in whole images squeezed to squares (Table 13)."""
    return _finetuning(
        "rec",
        model or paper_model(),
        SourceConfig("", max_images_per_row=16, fit="squeeze", flip=True),
        num_rows=16,
        num_steps=10_000,
        optim=_optim(2e-5, beta=0.999, warmup_steps=500),
        frozen=["vision_encoder", "image_decoder"],
        shard_layers=True,
    )


def seg2img(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """A label map and a caption to the image; only the image is learned (Table 14).

    64 rows of up to 8 pairs are the table's batch of 512.
    """
    return _finetuning(
        "seg2img",
        model or paper_model(),
        SourceConfig("", max_images_per_row=16, flip=True),
        num_rows=64,
        row_tokens=1536,
        num_steps=4000,
        optim=_optim(1e-4, beta=0.98, eps=1e-5, warmup_steps=100, unet_lr_factor=0.1),
        frozen=["vision_encoder", "language_model", "vae"],
    )


def story(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """Stories of sentences and images; all images are learned, no sentence (Table 15).

    32 rows of four stories with five images are the table's batch of 128.
    """
    return _finetuning(
        "story",
        model or paper_model(),
        SourceConfig("", max_images_per_row=20),
        num_rows=32,
        num_steps=4000,
        optim=_optim(1e-5, beta=0.98, warmup_steps=200, unet_lr_factor=10.0),
        frozen=["vision_encoder", "language_model", "vae"],
    )


def instruct(model: MMInterleavedConfig | None = None) -> TrainConfig:
    """A chat with images on both sides; only the assistant's turns are learned. Rates and steps as in Table 12."""
    return _finetuning(
        "instruct",
        model or paper_model(),
        SourceConfig("", max_images_per_row=20),
        num_rows=32,
        num_steps=10_000,
        optim=_optim(1e-5, beta=0.999, warmup_steps=500, language_model_lr_factor=0.1),
        frozen=["vision_encoder", "vae"],
        image_chunk=4,  # beside a language model that learns
        shard_layers=True,
    )


def _optim(
    lr: float,
    *,
    beta: float,
    warmup_steps: int,
    eps: float = 1e-8,
    unet_lr_factor: float = 1.0,
    language_model_lr_factor: float = 1.0,
) -> OptimConfig:
    """What the tables have in common; sampling offsets learn like the rest."""
    return OptimConfig(
        lr=lr,
        betas=(0.9, beta),
        eps=eps,
        weight_decay=0.05,
        warmup_steps=warmup_steps,
        sampling_offsets_lr_factor=1.0,
        unet_lr_factor=unet_lr_factor,
        language_model_lr_factor=language_model_lr_factor,
    )


def _finetuning(
    task: str,
    model: MMInterleavedConfig,
    source: SourceConfig,
    *,
    num_rows: int,
    num_steps: int,
    optim: OptimConfig,
    frozen: list[FrozenComponent],
    row_tokens: int = 2048,
    micro_batch_rows: int = 2,
    image_chunk: int = 8,
    shard_layers: bool = False,
) -> TrainConfig:
    return TrainConfig(
        recipe=task,
        out=f"runs/{task}",
        model=model,
        data=DataConfig(),
        corpus=CorpusConfig({task: source}, num_rows=num_rows, row_tokens=row_tokens),
        frozen=frozen,
        num_steps=num_steps,
        optim=optim,
        parallel=ParallelConfig(shard_layers=shard_layers, gather_dtype="bfloat16" if shard_layers else "float32"),
        **fitting(micro_batch_rows, image_chunk),
    )
