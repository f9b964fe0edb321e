"""What a runtime needs beside the graphs: embeddings, tokenizer, negative context, noise schedule, numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from export.noise_schedule import NoiseSchedule
from models import MMInterleaved

EMBEDDING_FILE = "embedding.safetensors"
NEGATIVE_CONTEXT_FILE = "negative_context.safetensors"
SCHEDULE_FILE = "noise_schedule.json"
RUNTIME_FILE = "runtime.json"


@dataclass(frozen=True)
class RuntimeSettings:
    """Numbers of the model that steer generation."""

    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    begin_of_image_id: int
    image_token_id: int
    num_visual_tokens: int
    max_positions: int | None
    context_images: Literal["all", "previous"]
    latent_shape: tuple[int, int, int]
    """(channels, height, width) of one image as the U-Net sees it."""

    @classmethod
    def of(cls, model: MMInterleaved) -> RuntimeSettings:
        """Those of a model."""
        config = model.config
        return cls(
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            begin_of_image_id=config.begin_of_image_id,
            image_token_id=config.image_token_id,
            num_visual_tokens=config.vision.num_visual_tokens,
            max_positions=config.language_model.transformer.get("max_position_embeddings"),
            context_images=config.image_decoder.context_images,
            latent_shape=model.image_decoder.latent_shape,
        )

    @classmethod
    def load(cls, file: Path) -> RuntimeSettings:
        """Read what `write_assets` wrote."""
        values = json.loads(file.read_text())
        return cls(**{**values, "latent_shape": tuple(values["latent_shape"])})


@torch.no_grad()
def write_assets(model: MMInterleaved, directory: Path) -> list[Path]:
    """Write all of them; the model has a processor.

    `embedding` [vocabulary, C] is the table of `inputs_embeds`, the learned begin-of-image vector already added to its
    row; rows of image placeholders are replaced by visual tokens. `negative_context` [n, cross_attention_dim] is also a
    constant of `context_resampler`.
    """
    assert model.processor is not None, "the command asks for one first"
    directory.mkdir()
    embedding = model.language_model.embed(torch.arange(model.language_model.vocabulary_size)).clone()
    embedding[model.config.begin_of_image_id] += model.begin_of_image
    save_file({"embedding": embedding}, directory / EMBEDDING_FILE)
    negative_context = model.image_decoder.negative_context.detach().clone()
    save_file({"negative_context": negative_context}, directory / NEGATIVE_CONTEXT_FILE)
    NoiseSchedule.of(model).save(directory / SCHEDULE_FILE)
    (directory / RUNTIME_FILE).write_text(json.dumps(asdict(RuntimeSettings.of(model)), indent=2) + "\n")
    model.processor.save_pretrained(directory)
    return sorted(directory.iterdir())
