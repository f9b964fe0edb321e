"""The settings of a run: frozen dataclasses. Those of its data are in `trainer.data.config`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from models import MMInterleavedConfig
from models.component_names import CompiledComponent, FrozenComponent
from models.lora_config import LoraConfig
from trainer.change_history import SettingsChange
from trainer.data.config import CorpusConfig, DataConfig
from trainer.errors import require
from trainer.system_config import LONG_ROW, CheckpointConfig, LoggingConfig, MemoryConfig, ParallelConfig, ProfileConfig

InitComponent = Literal["visual_tokenizer", "language_model", "image_decoder"]
"""A component of the model that can be initialised apart; `<BoI>` belongs to the language model."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule and its parameter groups. The defaults are the paper's pre-training (Table 11)."""

    lr: float = 1e-4
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.995)
    """Decay rates of AdamW's running means of the gradient and of its square."""

    eps: float = 1e-6
    """Added to the denominator of AdamW's update."""

    weight_decay: float = 0.05
    """For matrices and convolutions; norms, biases, embeddings, gates and sampling offsets have none."""

    warmup_steps: int = 1000
    """Steps over which the learning rate rises to `lr`."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine, down to 0 at the last step, or constant."""

    sampling_offsets_lr_factor: float = 0.1
    """The learning rate of the layers that predict MMFS's sampling offsets, as a multiple of `lr`."""

    gate_lr_factor: float = 1.0
    """The learning rate of the gates of the synchronizers, as a multiple of `lr`."""

    unet_lr_factor: float = 1.0
    """The learning rate of the U-Net without its synchronizers, as a multiple of `lr`; 0.1 in Table 11."""

    language_model_lr_factor: float = 1.0
    """The learning rate of the language model without its synchronizers, as a multiple of `lr`; 0.1 in Table 12."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down so that the norm of all of them together is at most this."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optim.lr is {self.lr}; expected a number above 0.")
        require(
            all(0 <= beta < 1 for beta in self.betas),
            f"optim.betas are {self.betas}; expected two numbers of at least 0 and below 1.",
        )
        for name in ("unet_lr_factor", "language_model_lr_factor"):
            require(getattr(self, name) > 0, f"optim.{name} is {getattr(self, name)}; expected a number above 0.")
        require(self.warmup_steps >= 0, f"optim.warmup_steps is {self.warmup_steps}; expected 0 or more.")
        require(self.max_grad_norm > 0, f"optim.max_grad_norm is {self.max_grad_norm}; expected a number above 0.")


@dataclass(frozen=True)
class EncoderPretrainingConfig:
    """A short pre-training of the image encoder on dense labels, before the main training."""

    num_steps: int = 0
    """0: none."""

    images_per_step: int = 32
    """Images in a batch."""

    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        require(self.num_steps >= 0, f"encoder_pretraining.num_steps is {self.num_steps}; expected 0 or more.")
        require(
            self.images_per_step >= 1,
            f"encoder_pretraining.images_per_step is {self.images_per_step}; expected 1 or more.",
        )


@dataclass(frozen=True)
class PartsConfig:
    """The pre-trained networks that a model is made of: each a local directory or a name on the Hugging Face hub."""

    language_model: str
    """A causal language model of type llama, mistral, qwen2, qwen3, gemma3_text or phi3."""

    vision_encoder: str
    """A ViT such as CLIP, SigLIP or DINOv2."""

    image_decoder: str
    """A Stable Diffusion 1.x, 2.x or XL."""

    tokenizer: str | None = None
    """null: the one with the language model."""

    language_model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype of the language model's weights; bfloat16 and float16 only where it is frozen."""


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    recipe: str
    """The recipe that these settings started from."""

    out: str
    """The run directory: config.yaml, log.jsonl, tensorboard/, checkpoints/, and in the end model/."""

    model: MMInterleavedConfig
    data: DataConfig
    """The emoji world; unused where there is a `corpus`."""

    num_steps: int
    """Optimiser steps of the main training; 0 ends with the encoder's pre-training."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    corpus: CorpusConfig | None = None
    """Real data instead of the emoji world; null: none."""

    encoder_pretraining: EncoderPretrainingConfig = field(default_factory=EncoderPretrainingConfig)
    freeze_encoder: bool = False
    """Freeze the vision transformer and its adapter in the main training (the paper freezes its CLIP); the resampler
    that makes visual tokens of their features still learns."""

    frozen: list[FrozenComponent] = field(default_factory=list)
    """Components that are frozen from the start (`models.frozen`)."""

    lora: LoraConfig | None = None
    """Adapters to train in the language model, whose own weights are frozen then; null: none."""

    parts: PartsConfig | None = None
    """The pre-trained networks to build a new model from. Their sizes and token ids replace those in `model`. null:
    none."""

    init: str | None = None
    """A directory written by `MMInterleaved.save_pretrained` whose weights the run starts from; null: random ones."""

    init_components: list[InitComponent] | None = None
    """The components whose weights come from `init`; the others start from random weights and may be built otherwise.
    null: all of them, and then the model in `init` has to have the run's settings."""

    ema_decay: float = 0.0
    """Above 0: `model/` holds an exponential moving average of the weights with this decay; 0: the last weights."""

    seed: int = 0
    """Seed of random weights, of the order of the data and of the noise."""

    max_minutes: float | None = None
    """Pause after so many minutes of this process, with a checkpoint that the same command goes on from; null:
    no limit."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """The dtype of matrix products in the main training. Trained weights, their gradients, the optimizer's state and
    sums are float32; with bfloat16, frozen matrices are stored in it, in `model/` too."""

    float8: Literal["frozen"] | None = None
    """"frozen": frozen matrices in the layers of the vision encoder, the language model and the U-Net are held in
    float8 (e4m3, a scale for each output), a byte a number, and multiplied in `precision`; `model/` has them as they
    are rounded. null: as `precision` says."""

    compile: list[CompiledComponent] = field(default_factory=list)
    """Components whose layers torch.compile compiles when they are first called: one slow step, then faster ones."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    max_skipped_in_a_row: int = 3
    """A step whose gradient is infinite or NaN is skipped; after so many in a row, the next one ends the run."""

    device: str = "auto"
    """"auto" is the GPU where there is one; or "cpu", "cuda", "cuda:1", ..."""

    num_threads: int = 0
    """CPU threads of PyTorch; 0: PyTorch's choice (all cores, or OMP_NUM_THREADS). Another number may round
    differently."""

    num_workers: int = 1
    """Processes that prepare batches ahead of time; 0: the training process prepares each before its step. The data is
    the same."""

    history: list[SettingsChange] = field(default_factory=list)
    """What was changed while the run went on, in that order; --change writes it."""

    def __post_init__(self) -> None:
        # YAML and JSON have no tuples: with lists in its free-form dictionaries, a configuration equals its round trip.
        object.__setattr__(self, "model", MMInterleavedConfig.from_dict(self.model.to_dict()))
        require(self.num_steps >= 0, f"num_steps is {self.num_steps}; expected 0 or more.")
        require(
            self.num_steps + self.encoder_pretraining.num_steps > 0,
            "num_steps and encoder_pretraining.num_steps are both 0; expected something to train.",
        )
        require(
            self.corpus is None or self.encoder_pretraining.num_steps == 0,
            f"encoder_pretraining.num_steps is {self.encoder_pretraining.num_steps}; expected 0 with a corpus, whose "
            "images have no dense labels.",
        )
        require(
            self.parts is None or (self.init is None and self.corpus is not None),
            f"parts are given, with {'no corpus' if self.corpus is None else f'init {self.init}'}; expected a corpus, "
            "which any tokenizer can read, and no init, for parts are a beginning themselves.",
        )
        require(
            self.init is not None or self.init_components is None,
            f"init_components are {self.init_components} and init is null; expected a model in init whose components "
            "these are.",
        )
        require(
            self.corpus is None
            or self.logging.sample_every == 0
            or any(source.held_out for source in self.corpus.sources.values()),
            f"logging.sample_every is {self.logging.sample_every}, with a corpus that holds nothing out; expected 0, "
            "or a source with samples that are not trained on: --corpus.sources.NAME.held_out 4.",
        )
        require(
            self.parallel.gather_dtype == "float32" or self.precision == "bfloat16",
            "parallel.gather_dtype is bfloat16, and precision is float32, whose products it would round; expected "
            "precision bfloat16, or gather_dtype float32.",
        )
        require(
            self.float8 is None or self.encoder_pretraining.num_steps == 0,
            f"float8 is {self.float8}, with {self.encoder_pretraining.num_steps} steps of encoder_pretraining, in "
            "which matrices learn that are frozen later; expected float8 null, or a run of its own for the encoder, "
            "whose weights this one starts from (--init).",
        )
        for name in ("num_threads", "num_workers", "max_skipped_in_a_row"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more.")
        require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}; expected 0 (none) or a number below 1.")
        require(
            self.max_minutes is None or self.max_minutes > 0,
            f"max_minutes is {self.max_minutes}; expected a number above 0, or null for no limit.",
        )

    @property
    def attends_by_document(self) -> bool:
        """Whether the language model's attention is computed without a mask of all pairs of tokens."""
        chosen = self.memory.attention_by_document
        return (self.corpus or self.data).row_tokens >= LONG_ROW if chosen is None else chosen

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
