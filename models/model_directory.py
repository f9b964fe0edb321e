"""A model directory, opened: everything that can be looked at before memory is taken for the model.

A directory may come from anybody, or be damaged. Its settings are held against the names and shapes of its weights with
a model that has no numbers (1 s for 13 B parameters), so that neither a hostile nor a wrong number costs more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from models.config import CONFIG_FILE, MMInterleavedConfig
from models.digests import check_digests
from models.foreign_settings import check_counts
from models.json_files import shortened
from models.lora import matrices
from models.network import Network
from models.processor import MMInterleavedProcessor
from models.stored_weights import StoredWeights
from models.torch_defaults import usual_torch_defaults


@dataclass(frozen=True)
class ModelDirectory:
    """What a model is made of; the numbers are still on disk."""

    config: MMInterleavedConfig
    processor: MMInterleavedProcessor | None
    weights: StoredWeights


def open_model_directory(
    directory: Path,
    *,
    base: Mapping[str, str | Path] | None = None,
    config: MMInterleavedConfig | None = None,
    digests: bool = True,
) -> ModelDirectory:
    """Open what `MMInterleaved.save_pretrained` or `python -m models.convert` wrote.

    Args:
        directory: which.
        base: where snapshots are now; see `MMInterleaved.from_pretrained`.
        config: settings to use instead of the directory's.
        digests: read every file once and compare it with `SHA256SUMS`, if there is one.

    Raises:
        FileNotFoundError: the directory holds no model, or a file of it is missing.
        ValueError: a file is damaged, holds what cannot be, or does not fit the others. The message names it.
    """
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{directory} holds no {CONFIG_FILE}. Expected a directory written by MMInterleaved.save_pretrained or "
            "python -m models.convert."
        )
    weights = StoredWeights(directory, base)
    if digests:
        check_digests(directory)
    settings = config or MMInterleavedConfig.load(file)
    processor = MMInterleavedProcessor.from_directory(directory)
    if config is not None and processor is not None:
        processor = MMInterleavedProcessor(processor.tokenizer, image_size=config.image_size, fit=processor.fit)
    vocabulary_size = _check(settings, weights, "The given configuration" if config is not None else str(file))
    if processor is not None:
        processor.check(settings, vocabulary_size, str(directory))
    return ModelDirectory(settings, processor, weights)


@usual_torch_defaults()
def _check(config: MMInterleavedConfig, weights: StoredWeights, where: str) -> int:
    """Raise ValueError if the settings describe no model, or another one than the weights; returns the size of the
    vocabulary."""
    shapes = weights.shapes()
    tokenizer, decoder = config.visual_tokenizer, config.image_decoder
    networks = {
        "visual_tokenizer.vision_encoder": tokenizer.vision_encoder,
        "language_model.transformer": config.language_model.transformer,
        "image_decoder.unet": decoder.unet,
        "image_decoder.vae": decoder.vae or {},
        "image_decoder.scheduler": decoder.scheduler,
    }
    for name, settings in networks.items():
        check_counts(settings, f"{where}: {name}", most_layers=len(shapes))
    for name, count in (
        ("visual_tokenizer.resampler_layers", tokenizer.resampler_layers),
        ("visual_tokenizer.adapter_blocks", tokenizer.adapter_blocks),
        ("image_decoder.resampler_layers", decoder.resampler_layers),
    ):
        if count > len(shapes):
            raise ValueError(f"{where}: {name} is {count}, and the weights have {len(shapes)} tensors in all.")
    try:
        with torch.device("meta"):
            model = Network(config)
    except Exception as error:  # whatever transformers, diffusers or we say of such settings
        reason = shortened(str(error).partition("\n")[0], 300)
        raise ValueError(
            f"{where} does not describe a model that can be made ({type(error).__name__}: {reason}). Get it again from "
            "where the weights are from."
        ) from error
    weights.check_fit(matrices(model))
    vocabulary_size = model.language_model.vocabulary_size
    try:
        config.check_token_ids(vocabulary_size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return vocabulary_size
