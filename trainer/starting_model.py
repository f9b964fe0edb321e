"""The model that a run starts with: random, of pre-trained networks, or with the weights of an earlier run."""

from __future__ import annotations

from pathlib import Path

import torch

from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.config import CONFIG_FILE
from models.frozen import freeze
from models.lora import add_lora, merge_lora
from models.urls import is_url, shown_url
from trainer.config import PartsConfig, TrainConfig
from trainer.errors import UsageError
from trainer.options.changed_settings import changed_settings

FITS_ANY_WEIGHTS = (
    "visual_tokenizer.image_size",
    "visual_tokenizer.qformer.dropout",
    "language_model.packing",
    "image_decoder.image_size",
    "image_decoder.context_images",
    "image_decoder.text_drop",
    "image_decoder.image_drop",
    "image_decoder.qformer.dropout",
    "image_loss_weight",
)
"""Settings of a model in which a run may differ from the weights that it starts from."""


def make_model(config: TrainConfig) -> MMInterleaved:
    """The model as the first step finds it, its frozen parts without gradients.

    Raises:
        UsageError: weights or pre-trained networks are missing, or do not fit the settings.
    """
    try:
        if config.parts is not None:
            model = from_parts(config, config.parts)
        elif config.init is not None:
            model = from_weights(config, config.init)
        else:
            model = MMInterleaved(config.model, new_processor(config))
        merge_lora(model)  # what an earlier run taught in adapters is a beginning like any other
        freeze(model, config.frozen)
        if config.lora is not None:
            add_lora(model, config.lora)
        if config.corpus is not None and model.processor is not None:
            model.processor.fit = config.corpus.fit
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from error
    return model


def new_processor(config: TrainConfig) -> MMInterleavedProcessor:
    """The tokenizer of the run's data, and the size of the images that its model reads."""
    texts = config.data if config.corpus is None else config.corpus
    return MMInterleavedProcessor(texts.tokenizer(), image_size=config.model.image_size)


def from_parts(config: TrainConfig, parts: PartsConfig) -> MMInterleaved:
    """Pre-trained networks, joined as `config.model` says and reading and drawing at its sizes."""
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
    )


def from_weights(config: TrainConfig, init: str) -> MMInterleaved:
    """The weights of the model directory `init`, or of some of its parts."""
    try:
        saved = settings_of(init)
        if config.init_components is not None:
            model = MMInterleaved(config.model, new_processor(config))
            take_parts(model, MMInterleaved.from_pretrained(init), config)
            return model
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
        model = MMInterleaved.from_pretrained(init, config=config.model)
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"init is '{init}', which cannot be loaded: {error}") from error
    if config.corpus is None or config.corpus.tokenizer_file is not None or model.processor is None:
        model.processor = new_processor(config)
    return model


def settings_of(init: str) -> MMInterleavedConfig:
    """The settings of the model in a directory. Raises UsageError if there is none."""
    if is_url(init):
        raise UsageError(f"init is {shown_url(init)}, a URL; expected a directory of this machine.")
    file = Path(init) / CONFIG_FILE
    if not file.is_file():
        raise UsageError(
            f"init is '{init}', which cannot be loaded: it holds no {CONFIG_FILE}. Expected a directory written by "
            "MMInterleaved.save_pretrained or python -m models.convert."
        )
    try:
        return MMInterleavedConfig.load(file)
    except (TypeError, ValueError) as error:
        raise UsageError(f"init is '{init}', which cannot be loaded: {error}") from error


def take_parts(model: MMInterleaved, source: MMInterleaved, config: TrainConfig) -> None:
    """Copy the weights of the parts that `config.init_components` names."""
    for part in config.init_components or ():
        try:
            model.get_submodule(part).load_state_dict(source.get_submodule(part).state_dict())
            if part == "language_model":
                model.load_state_dict({"begin_of_image": source.begin_of_image}, strict=False)
        except RuntimeError as error:
            raise UsageError(
                f"init is '{config.init}', whose {part} has another shape than this run's: {error}. Give both the same "
                "settings there, or leave it out of init_components."
            ) from error
