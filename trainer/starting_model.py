"""The model that a run starts with: random, of pre-trained networks, or with the weights of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.config import CONFIG_FILE
from models.fetched_model import fetched_model
from models.frozen import freeze
from models.lora import ADAPTER_FOLDER, add_lora, merge_lora
from models.model_directory import open_model_directory
from models.stored_weights import StoredWeights
from models.uninitialized import uninitialized
from models.urls import is_url, shown_url
from trainer.config import PartsConfig, TrainConfig
from trainer.errors import UsageError
from trainer.options.changed_settings import changed_settings
from trainer.process.distributed import Processes
from trainer.step.starting_weights import Stored, StoredTensor, keep_in_files, read_stored

BEGIN_OF_IMAGE = "begin_of_image"
"""The parameter that belongs to the language model without being in it."""

FITS_ANY_WEIGHTS = (
    "visual_tokenizer.image_size",
    "visual_tokenizer.qformer.dropout",
    "language_model.packing",
    "image_decoder.image_size",
    "image_decoder.context_images",
    "image_decoder.text_drop",
    "image_decoder.image_drop",
    "image_decoder.timestep_bias_multiplier",
    "image_decoder.timestep_bias_portion",
    "image_decoder.qformer.dropout",
    "image_loss_weight",
)
"""Settings of a model in which a run may differ from the weights that it starts from."""


@dataclass(frozen=True)
class StartingModel:
    """A model before its numbers are where they belong."""

    model: MMInterleaved
    stored: Stored
    """Parameters whose numbers are still in files."""


def begin_model(config: TrainConfig, processes: Processes) -> StartingModel:
    """The model as the first step finds it, its frozen parts without gradients. What is not in files has its numbers in
    the first process alone; in the others its parameters are on the meta device.

    Raises:
        UsageError: weights or pre-trained networks are missing, or do not fit the settings.
    """
    return _begin(config, is_first=processes.is_first)


def make_model(config: TrainConfig) -> MMInterleaved:
    """The same with all of its numbers.

    Raises:
        UsageError: weights or pre-trained networks are missing, or do not fit the settings.
    """
    start = _begin(config, is_first=True)
    read_stored(start.model, torch.device("cpu"), start.stored)
    return start.model


def _begin(config: TrainConfig, *, is_first: bool) -> StartingModel:
    try:
        stored: Stored = {}
        if config.parts is not None:
            model = from_parts(config, config.parts, has_numbers=is_first)
        elif config.init is not None:
            model, stored = from_weights(config, config.init, is_first=is_first)
        else:
            model = new_model(config, has_numbers=is_first)
        freeze(model, config.frozen)
        if config.lora is not None:
            add_lora(model, config.lora)
        if config.corpus is not None and model.processor is not None:
            model.processor.fit = config.corpus.fit
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from error
    return StartingModel(model, keep_in_files(model, stored, has_others=is_first))


def new_model(config: TrainConfig, *, has_numbers: bool) -> MMInterleaved:
    """A model with random weights, or with undefined ones."""
    if has_numbers:
        return MMInterleaved(config.model, new_processor(config))
    return uninitialized(lambda: MMInterleaved(config.model, new_processor(config)))


def new_processor(config: TrainConfig) -> MMInterleavedProcessor:
    """The tokenizer of the run's data, and the size of the images that its model reads."""
    texts = config.data if config.corpus is None else config.corpus
    return MMInterleavedProcessor(texts.tokenizer(), image_size=config.model.image_size)


def from_parts(config: TrainConfig, parts: PartsConfig, *, has_numbers: bool) -> MMInterleaved:
    """Pre-trained networks, joined as `config.model` says and reading and drawing at its sizes; their weights are read
    only if it is to have its numbers."""
    return MMInterleaved.from_parts(
        language_model=parts.language_model,
        vision_encoder=parts.vision_encoder,
        image_decoder=parts.image_decoder,
        tokenizer=parts.tokenizer,
        like=config.model,
        image_size=config.model.visual_tokenizer.image_size,
        drawn_image_size=config.model.image_decoder.image_size,
        language_model_dtype=getattr(torch, parts.language_model_dtype),
        frozen=config.frozen,
        read_weights=has_numbers,
    )


def from_weights(config: TrainConfig, init: str, *, is_first: bool) -> tuple[MMInterleaved, Stored]:
    """The weights of the model directory `init`, or of some of its parts: where they are in files."""
    try:
        directory = directory_of(init)
        saved = _settings_in(directory, init)
        if config.init_components is not None:
            model = new_model(config, has_numbers=is_first)
            opened = open_model_directory(directory, digests=is_first)
            return model, take_parts(model, opened.weights, config)
        changed = [
            change
            for change in changed_settings(saved.to_dict(), config.model)
            if not change.startswith(tuple(f"{name}:" for name in FITS_ANY_WEIGHTS))
        ]
        if changed:
            raise UsageError(
                f"init is '{init}', a model with other settings than the run's (there -> here): {'; '.join(changed)}. "
                "Set the model's options to those of the weights, or start without --init."
            )
        if (directory / ADAPTER_FOLDER).is_dir() and is_first:  # matrices that are in no file as they are to be
            model, stored = MMInterleaved.from_pretrained(directory, config=config.model), {}
            merge_lora(model)
        else:
            opened = open_model_directory(directory, config=config.model, digests=is_first)
            model = uninitialized(lambda: MMInterleaved(opened.config, opened.processor))
            stored = {} if (directory / ADAPTER_FOLDER).is_dir() else places_in(opened.weights, model)
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"init is '{init}', which cannot be loaded: {error}") from error
    if config.corpus is None or config.corpus.tokenizer_file is not None or model.processor is None:
        model.processor = new_processor(config)
    return model, stored


def places_in(weights: StoredWeights, model: MMInterleaved, prefixes: tuple[str, ...] = ("",)) -> Stored:
    """Where the parameters are whose names begin with one of these; buffers that belong to the weights, which are
    small, are read at once."""
    for name, buffer in model.named_buffers():
        if name.startswith(prefixes) and name in weights.shapes():
            weights.copy_rows(name, buffer)
    return {
        parameter: StoredTensor(weights, name)
        for name, parameter in model.named_parameters()
        if name.startswith(prefixes)
    }


def directory_of(init: str) -> Path:
    """Of a model; one in object storage is fetched once. Raises UsageError if it is not there."""
    try:
        return fetched_model(init) if is_url(init) else Path(init)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise UsageError(f"init is {shown_url(init)}, which cannot be loaded: {error}") from error


def settings_of(init: str) -> MMInterleavedConfig:
    """The settings of the model in a directory. Raises UsageError if there is none."""
    return _settings_in(directory_of(init), init)


def _settings_in(directory: Path, init: str) -> MMInterleavedConfig:
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise UsageError(
            f"init is '{init}', which cannot be loaded: it holds no {CONFIG_FILE}. Expected a directory written by "
            "MMInterleaved.save_pretrained or python -m models.convert."
        )
    try:
        return MMInterleavedConfig.load(file)
    except (TypeError, ValueError) as error:
        raise UsageError(f"init is '{init}', which cannot be loaded: {error}") from error


def take_parts(model: MMInterleaved, weights: StoredWeights, config: TrainConfig) -> Stored:
    """Where the weights of the parts are that `config.init_components` names."""
    own, theirs = model.state_dict(), weights.shapes()
    taken: list[str] = []
    for part in config.init_components or ():
        prefixes = (f"{part}.", BEGIN_OF_IMAGE) if part == "language_model" else (f"{part}.",)
        names = {name for name in own.keys() | theirs.keys() if name.startswith(prefixes)}
        differing = sorted(n for n in names if n not in own or list(own[n].shape) != theirs.get(n))
        if differing:
            raise UsageError(
                f"init is '{config.init}', whose {part} has another shape than this run's: {len(differing)} tensors "
                f"differ {differing[:3]}. Give both the same settings there, or leave it out of init_components."
            )
        taken += prefixes
    return places_in(weights, model, tuple(taken))
