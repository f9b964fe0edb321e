"""The trainings that a run consists of: what learns from what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from models.activation_checkpointing import enable_activation_checkpointing
from models.compiled_components import compile_components
from trainer.config import TrainConfig
from trainer.cost.utilisation import StepFlops
from trainer.data.corpus_stream import CorpusStream, DataStart
from trainer.data.row_stream import RowStream
from trainer.data.stream import Stream
from trainer.encoder_pretraining import encoder_phase
from trainer.errors import UsageError
from trainer.run_files import QUARANTINE, ROW_STARTS
from trainer.run_storage import local_folder
from trainer.sample_sheet import Sampler
from trainer.starting_model import StartingModel
from trainer.step.accumulate import Chunks
from trainer.step.checkpoint import Checkpoint
from trainer.step.frozen_weights import keep_frozen_in, keep_frozen_in_float8
from trainer.step.losses import StepLosses, count_tokens_and_images
from trainer.step.phase import Phase


def make_phases(start: StartingModel, config: TrainConfig, *, writes: bool = True) -> Iterator[Phase]:
    """The encoder's pre-training and the main training, as far as there are any; with `writes`, broken data is named in
    the run directory."""
    model = start.model
    try:
        stream: RowStream
        if config.corpus is None:
            stream = Stream(config.data, model.config, seed=config.seed)
        else:
            quarantine_file = local_folder(config.out) / QUARANTINE if writes else None
            tokenizer = model.processor.tokenizer if model.processor is not None else None
            stream = CorpusStream(
                config.corpus,
                model.config,
                seed=config.seed,
                quarantine_file=quarantine_file,
                row_starts=local_folder(config.out) / ROW_STARTS if writes else None,
                tokenizer=tokenizer,
                start=DataStart.of(config.history),
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    frozen: tuple[str, ...] = ()
    if config.freeze_encoder:
        frozen = ("visual_tokenizer.adapter",)
    if config.encoder_pretraining.num_steps:
        yield replace(encoder_phase(model, config), stored=start.stored)
    else:
        for name in frozen:  # for good, so that no checkpoint has to hold them
            model.get_submodule(name).requires_grad_(False)
    if config.num_steps == 0:
        return
    enable_activation_checkpointing(model, config.memory.activation_checkpointing)
    dtype = getattr(torch, config.precision)
    if not config.encoder_pretraining.num_steps:  # which is in float32
        keep_frozen_in(model, dtype)
    if config.float8 == "frozen":
        keep_frozen_in_float8(model, start.stored)
    if config.attends_by_document:
        try:
            model.language_model.enable_document_attention()
        except ValueError as error:
            raise UsageError(f"{error} --memory.attention_by_document false") from error
    compile_components(model, config.compile)
    losses = StepLosses(
        Chunks(config.memory.image_chunk or None, config.memory.token_chunk or None), dtype, stream.datasets
    )
    yield Phase(
        name="main",
        index=1,
        module=model,
        batch=stream.compact_part,
        num_rows=stream.num_rows,
        counts=losses.counts,
        accumulate=losses.accumulate,
        size=count_tokens_and_images,
        flops=partial(StepFlops.of, config),
        num_steps=config.num_steps,
        optim=config.optim,
        ema_decay=config.ema_decay,
        frozen=frozen,
        stack=model.language_model.decoder,
        stored=start.stored,
        read_and_broken=stream.read_and_broken,
        documents=stream.keys,
        sample=Sampler(model, config) if writes and config.logging.sample_every else None,
    )


def steps_before(phases: Sequence[Phase], start: Checkpoint | None) -> int:
    """Steps of all phases that are done at `start`."""
    if start is None:
        return 0
    return start.step + sum(phase.num_steps for phase in phases if phase.index < start.phase_index)
