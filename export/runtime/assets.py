"""What a runtime needs beside the graphs: embeddings, tokenizer, negative context, noise schedule, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from export.components.component import Component
from export.components.sampled import Recording, sampling_tables
from export.runtime.sampler_tables import NoiseSchedule
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.config import CONFIG_FILE
from models.generation.state import processor_of
from models.processor import PROCESSOR_FILE, TOKENIZER_FILE
from models.tensor_files import read_tensors, write_tensors

EMBEDDING_FILE = "embedding.safetensors"
NEGATIVE_CONTEXT_FILE = "negative_context.safetensors"
SCHEDULE_FILE = "noise_schedule.json"
SAMPLING_FILE = "sampling_tables.safetensors"
"""Only of an export that tells where its MMFS layers sample."""

ASSET_FILES = (CONFIG_FILE, PROCESSOR_FILE, TOKENIZER_FILE, EMBEDDING_FILE, SCHEDULE_FILE)
"""All that every export has, and `Assets.load` reads."""

CANNOT_RECORD = (
    "The components were made without what tells where their MMFS layers sample. Open them with "
    "Session.of(model, sampling_locations=True)."
)


@dataclass(frozen=True)
class Assets:
    """All of it but the negative context, which is also a constant of a graph."""

    config: MMInterleavedConfig
    processor: MMInterleavedProcessor | None
    schedule: NoiseSchedule
    embedding: Tensor
    """[vocabulary, C], the table of `inputs_embeds`, the learned begin-of-image vector already added to its row; rows
    of image placeholders are replaced by visual tokens."""

    sampling: Mapping[str, Tensor] = field(default_factory=dict)
    """`export.components.sampled.sampling_tables` of all components that record; else empty."""

    cannot_record: str = CANNOT_RECORD
    """Where it is empty: why, and what to do."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: MMInterleaved, components: Mapping[str, Component] | None = None) -> Assets:
        """Those of a model; with the tables of sampling if these components of it record."""
        ids = torch.arange(model.language_model.vocabulary_size, device=model.device)
        embedding = model.language_model.embed(ids).clone()
        embedding[model.config.begin_of_image_id] += model.begin_of_image
        tables = {
            name: table
            for one in (components or {}).values()
            if isinstance(one.module, Recording)
            for name, table in sampling_tables(one).items()
        }
        return cls(model.config, model.processor, NoiseSchedule.of(model), embedding, tables)

    @classmethod
    def load(cls, directory: Path) -> Assets:
        """What `write_assets` wrote.

        Raises:
            FileNotFoundError: something is missing.
            ValueError: a file is damaged, or does not fit the others.
        """
        processor = MMInterleavedProcessor.from_directory(directory)
        if processor is None:
            raise FileNotFoundError(f"{directory} holds no processor. Expected a directory written by export.trt.")
        config = MMInterleavedConfig.load(directory / CONFIG_FILE)
        embedding = read_tensors(directory / EMBEDDING_FILE).get("embedding")
        width = config.language_model.transformer.get("hidden_size")
        if embedding is None or embedding.ndim != 2 or embedding.shape[1] != width:
            raise ValueError(f"{directory / EMBEDDING_FILE} holds no table with rows of {width} numbers.")
        processor.check(config, len(embedding), str(directory))
        config.check_token_ids(len(embedding))
        tables = directory / SAMPLING_FILE
        sampling = read_tensors(tables) if tables.is_file() else {}
        return cls(config, processor, NoiseSchedule.load(directory / SCHEDULE_FILE), embedding, sampling)

    def to(self, device: torch.device) -> Assets:
        """The same with its tensors on another device."""
        sampling = {name: table.to(device) for name, table in self.sampling.items()}
        return replace(self, embedding=self.embedding.to(device), sampling=sampling)


@torch.no_grad()
def write_assets(
    model: MMInterleaved, directory: Path, components: Mapping[str, Component] | None = None
) -> list[Path]:
    """Write all of them; the model has a processor. `negative_context` [n, cross_attention_dim] and, of SDXL,
    `negative_pooled` [P] are also constants of `context_resampler`.

    Args:
        model: that is exported.
        directory: is made.
        components: of the model; those that record have tables.
    """
    directory.mkdir()
    assets = Assets.of(model, components)
    if assets.sampling:
        write_tensors(directory / SAMPLING_FILE, dict(assets.sampling))
    assets.config.save(directory / CONFIG_FILE)
    processor_of(model).save_pretrained(directory)
    assets.schedule.save(directory / SCHEDULE_FILE)
    write_tensors(directory / EMBEDDING_FILE, {"embedding": assets.embedding})
    negative = {name: tensor.detach().clone() for name, tensor in model.image_decoder.named_parameters(recurse=False)}
    write_tensors(directory / NEGATIVE_CONTEXT_FILE, negative)
    return sorted(directory.iterdir())
