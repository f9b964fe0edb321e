"""The settings of a run: frozen dataclasses, and how the command line and YAML files change them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import jsonargparse

from models import MMInterleavedConfig
from models.frozen import FrozenPart
from models.lora import LoraConfig
from models.recompute import RecomputedPart
from trainer.data.corpus import CorpusConfig
from trainer.data.stream import DataConfig

PROGRAM = "python -m trainer.pretrain"

SETTINGS = "config.yaml"
"""In a run directory, the settings as `dump` writes them."""

MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("out", "max_minutes", "log_every", "sample_every", "checkpoint_every", "keep"),
        *("device", "num_threads", "num_workers"),
        *("images_at_once", "tokens_at_once", "recompute"),
        *("micro_batch_rows", "shard_size", "max_skipped_in_a_row", "watchdog_minutes"),
    }
)
"""Settings that do not decide what is learned, so that a resumed run may have others."""

CORPUS_MAY_CHANGE_ON_RESUME = frozenset({"manifest", "max_broken", "allow_changed"})
"""The same of `corpus`: a manifest may have moved, as long as its fingerprint is the same."""

OPTIONAL = ("corpus", "frozen", "lora", "parts")
"""Settings without a key in `TrainConfig.to_dict` where there are none."""


Part = Literal["visual_tokenizer", "language_model", "image_decoder"]
"""A part of the model; `<BoI>` belongs to the language model."""


class UsageError(ValueError):
    """A wish that cannot be met, told in sentences for the one who typed it; the command line adds no traceback."""


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise UsageError(sentence)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule and its parameter groups. The defaults are the paper's pre-training (Table 11)."""

    lr: float = 1e-4
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.995)
    eps: float = 1e-6
    weight_decay: float = 0.05
    """Of matrices and convolutions; norms, biases, embeddings, gates and sampling offsets have none."""

    warmup_steps: int = 1000
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine down to 0 at the last step, or level."""

    sampling_offsets_lr_factor: float = 0.1
    """The learning rate of the layers that say where MMFS looks, as a share of `lr`."""

    gate_lr_factor: float = 1.0
    """The learning rate of the gates of the synchronizers, as a multiple of `lr`."""

    unet_lr_factor: float = 1.0
    """The learning rate of the U-Net without its synchronizers, as a multiple of `lr`; 0.1 in Table 11."""

    language_model_lr_factor: float = 1.0
    """The learning rate of the language model without its synchronizers, as a multiple of `lr`; 0.1 in Table 12."""

    max_grad_norm: float = 1.0
    """The gradient of all parameters together is scaled down to this norm."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, f"optim.lr is {self.lr}; expected a number above 0.")
        _require(
            all(0 <= beta < 1 for beta in self.betas),
            f"optim.betas are {self.betas}; expected two numbers of at least 0 and below 1.",
        )
        for name in ("unet_lr_factor", "language_model_lr_factor"):
            _require(getattr(self, name) > 0, f"optim.{name} is {getattr(self, name)}; expected a number above 0.")
        _require(self.warmup_steps >= 0, f"optim.warmup_steps is {self.warmup_steps}; expected 0 or more.")
        _require(self.max_grad_norm > 0, f"optim.max_grad_norm is {self.max_grad_norm}; expected a number above 0.")


@dataclass(frozen=True)
class EncoderPretrainingConfig:
    """A short pre-training of the image encoder on dense labels, before the main training."""

    num_steps: int = 0
    """0: none."""

    images_per_step: int = 32
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        _require(self.num_steps >= 0, f"encoder_pretraining.num_steps is {self.num_steps}; expected 0 or more.")
        _require(
            self.images_per_step >= 1,
            f"encoder_pretraining.images_per_step is {self.images_per_step}; expected 1 or more.",
        )


@dataclass(frozen=True)
class PartsConfig:
    """The pre-trained networks that a model is made of: each a local directory or a name on the Hugging Face hub."""

    language_model: str
    """A causal language model of type llama, mistral, qwen2 or qwen3."""

    vision: str
    """A CLIP ViT."""

    diffusion: str
    """A Stable Diffusion 1.x or 2.x."""

    tokenizer: str | None = None
    """null: the one with the language model."""

    language_model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How the language model's weights are kept; the short types are for one that is frozen."""


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
    """In the main training, keep the vision transformer and its adapter as they are (the paper freezes its CLIP); the
    resampler that makes visual tokens of their features still learns."""

    frozen: list[FrozenPart] = field(default_factory=list)
    """The pre-trained networks, or a whole part, that stay as they are from the start (`models.frozen`)."""

    lora: LoraConfig | None = None
    """Adapters to train in the language model, whose own weights are frozen then; null: none."""

    parts: PartsConfig | None = None
    """The pre-trained networks to make a new model of, whose sizes and token ids come before those in `model`; null:
    none."""

    init: str | None = None
    """A directory written by `MMInterleaved.save_pretrained` whose weights the run starts from; null: random ones."""

    init_parts: list[Part] | None = None
    """The parts that are taken from `init`; the others start from random weights and may be built otherwise. null: the
    whole model, which then has the very settings of the run's."""

    ema_decay: float = 0.0
    """Above 0: `model/` gets an exponential moving average of the weights with this decay, not the last weights."""

    seed: int = 0
    max_minutes: float | None = None
    """Pause after so many minutes of this process, with a checkpoint that `--resume` goes on from; null: no limit."""

    log_every: int = 20
    """Steps between two progress lines, and between two points in TensorBoard; log.jsonl has every step."""

    sample_every: int = 0
    """Steps between two sheets of samples in samples/, made from the emoji world's held-out documents, with another one
    after the last step; 0: none. The other processes wait meanwhile."""

    checkpoint_every: int = 500
    """Steps between two checkpoints."""

    keep: int = 2
    """How many of the newest checkpoints stay."""

    micro_batch_rows: int = 0
    """Rows that a process computes at a time; it adds the gradients of its share of the batch up before each update.
    The result is the same, the memory smaller. 0: its whole share at once."""

    images_at_once: int = 0
    """Drawn images of a micro-batch whose U-Net graph is in memory at a time; 0: all. The result and the time are the
    same."""

    tokens_at_once: int = 0
    """Supervised tokens of a micro-batch whose logits are in memory at a time; 0: all. The result is the same, the
    language model's head is computed twice."""

    recompute: list[RecomputedPart] = field(default_factory=list)
    """Parts whose layers keep their inputs alone and are computed again for the gradient, which is the same."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """What the main training multiplies matrices in. Trained weights, their gradients, the optimizer and sums are
    float32; with bfloat16, frozen matrices are kept in it, in `model/` too."""

    shard_size: int = 0
    """With several processes, how many of them share one copy of the trainable parameters and of the optimizer's state
    (FSDP2). 0: all; 1: each has its own, plain data parallelism."""

    max_skipped_in_a_row: int = 3
    """A step whose gradient is infinite or not a number is left out; after so many in a row, the next one ends the
    run."""

    watchdog_minutes: float = 20.0
    """With several processes, how long one may keep the others waiting before the run names it and ends."""

    device: str = "auto"
    """"auto" is the GPU where there is one; or "cpu", "cuda", "cuda:1", ..."""

    num_threads: int = 0
    """CPU threads of PyTorch; 0 leaves its choice (all cores, or OMP_NUM_THREADS). Other numbers round differently."""

    num_workers: int = 1
    """Processes that make the data ahead of the step; 0 makes it in between. The data is the same."""

    def __post_init__(self) -> None:
        # YAML and JSON have no tuples: with lists in its free-form dictionaries, a configuration equals its round trip.
        object.__setattr__(self, "model", MMInterleavedConfig.from_dict(self.model.to_dict()))
        for name in ("log_every", "checkpoint_every", "keep"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; expected 1 or more.")
        _require(self.num_steps >= 0, f"num_steps is {self.num_steps}; expected 0 or more.")
        _require(
            self.num_steps + self.encoder_pretraining.num_steps > 0,
            "num_steps and encoder_pretraining.num_steps are both 0; expected something to train.",
        )
        _require(
            self.corpus is None or self.encoder_pretraining.num_steps == 0,
            f"encoder_pretraining.num_steps is {self.encoder_pretraining.num_steps}; expected 0 with a corpus, whose "
            "images have no dense labels.",
        )
        _require(
            self.parts is None or (self.init is None and self.corpus is not None),
            f"parts are given, with {'no corpus' if self.corpus is None else f'init {self.init}'}; expected a corpus, "
            "which any tokenizer can read, and no init, for parts are a beginning themselves.",
        )
        _require(
            self.init is not None or self.init_parts is None,
            f"init_parts are {self.init_parts} and init is null; expected a model in init whose parts these are.",
        )
        _require(
            self.corpus is None or self.sample_every == 0,
            f"sample_every is {self.sample_every}; expected 0 with a corpus, which has no held-out documents. A paused "
            "or finished run has its model in model/, to generate with.",
        )
        counts = (
            "sample_every",
            "micro_batch_rows",
            "images_at_once",
            "tokens_at_once",
            "shard_size",
            "max_skipped_in_a_row",
        )
        for name in ("num_threads", "num_workers", *counts):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more.")
        _require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}; expected 0 (none) or a number below 1.")
        _require(self.watchdog_minutes > 0, f"watchdog_minutes is {self.watchdog_minutes}; expected a number above 0.")
        _require(
            self.max_minutes is None or self.max_minutes > 0,
            f"max_minutes is {self.max_minutes}; expected a number above 0, or null for no limit.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers. Without a corpus there is no key for one, as in checkpoints from before there
        were any, so that those can be resumed; the same of `OPTIONAL`."""
        settings = json.loads(json.dumps(dataclasses.asdict(self)))
        return {name: value for name, value in settings.items() if value or name not in OPTIONAL}


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    config: TrainConfig
    resume: str | None
    """None: a new run. "auto": the newest checkpoint of the run directory. Else a checkpoint or a run directory."""

    estimate: str | None = None
    """GPUs and the GB of each, to estimate the run for instead of running it."""

    dry_run: int | None = None
    """So many steps to try out instead of the run, with nothing written."""


Recipes = Mapping[str, Callable[[], TrainConfig]]


def make_parser(config: TrainConfig, recipes: Recipes, program: str = PROGRAM) -> jsonargparse.ArgumentParser:
    """The parser whose defaults are `config`; every field of it, nested ones dotted, is an option."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=f"{program} [RECIPE] [--config FILE] [--resume [PATH]] [--print_config] [--OPTION VALUE ...]",
        description="RECIPE is one of: "
        + "; ".join(f"{name}: {(function.__doc__ or '').splitlines()[0]}" for name, function in recipes.items())
        + f" Defaults below are those of {config.recipe}. Exit code: 0 done or paused by max_minutes, 1 stopped by a "
        "non-finite gradient, a full memory or a corpus that cannot be used, 2 wrong use; after a complete checkpoint, "
        "3 SIGTERM, SIGUSR1 or a STOP file in the run directory, and 130 Ctrl-C. With several processes: "
        "torchrun --nproc-per-node N -m trainer.pretrain [RECIPE] ...",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file with any of the options below.")
    parser.add_argument(
        "--resume",
        type=str | None,
        nargs="?",
        const="auto",
        default=None,
        metavar="PATH",
        help="Go on from a checkpoint: without PATH from the newest of the run directory, or from the start if it has "
        "none yet; PATH is a checkpoint or a run directory.",
    )
    parser.add_argument(
        "--estimate",
        type=str | None,
        nargs="?",
        const="1x80",
        default=None,
        metavar="GPUSxGB",
        help="Train nothing; say what the run needs on so many GPUs of so many GB (8x80; without a value 1x80): "
        "parameters, memory, operations, days.",
    )
    parser.add_argument(
        "--dry-run",
        type=int | None,
        default=None,
        metavar="STEPS",
        help="Write nothing; make so many real steps on real data and tell of the data, the speed and the memory.",
    )
    hints = get_type_hints(TrainConfig)
    defaults = {setting.name: getattr(config, setting.name) for setting in dataclasses.fields(TrainConfig)}
    if config.corpus is not None:
        defaults["corpus"] = dataclasses.asdict(config.corpus)  # it cannot print dataclasses within a dictionary
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=hints[name], default=default)
    return parser


def parse(arguments: Sequence[str], recipes: Recipes, default: str, program: str = PROGRAM) -> Command:
    """Turn `[RECIPE] [options]` into a configuration: the recipe, changed by YAML files, changed by dotted overrides.

    Without RECIPE, a YAML file's `recipe` key says it, and else it is `default`.

    Raises:
        UsageError: an unknown recipe or key, or a value of the wrong type.
        SystemExit: after --help and --print_config, which print and are done.
    """
    if arguments and not arguments[0].startswith("-"):
        name, options = arguments[0], list(arguments[1:])
    else:
        options = list(arguments)
        name = _recipe_in_files(options, recipes, default, program)
    if name not in recipes:
        raise UsageError(f"There is no recipe '{name}'. Recipes: {', '.join(recipes)}.")
    command = _parse(options, recipes, name, program)
    if command.config.recipe != name:
        raise UsageError(
            f"The settings are of recipe '{command.config.recipe}', but the command names '{name}'. "
            f"Leave the name out, or start it as: {program} {command.config.recipe} {' '.join(options)}"
        )
    return command


def _parse(options: list[str], recipes: Recipes, name: str, program: str) -> Command:
    parser = make_parser(recipes[name](), recipes, program)
    try:
        values = parser.instantiate(parser.parse_args(options)).as_dict()
    except (jsonargparse.ArgumentError, ValueError) as error:
        sentence = " ".join(str(error).split()).removesuffix(".") + "."
        raise UsageError(f"{sentence} All options and their values: {program} {name} --print_config") from error
    asked = {name: values.pop(name) for name in ("resume", "estimate", "dry_run")}
    del values["config"]
    if asked["dry_run"] is not None:
        _require(asked["dry_run"] >= 1, f"dry-run is {asked['dry_run']}; expected 1 or more steps.")
    return Command(TrainConfig(**values), **asked)


def _recipe_in_files(options: list[str], recipes: Recipes, default: str, program: str) -> str:
    if not any(option.partition("=")[0] == "--config" for option in options):
        return default
    quiet = [option for option in options if not option.startswith("--print_config")]
    return _parse(quiet, recipes, default, program).config.recipe


def dump(config: TrainConfig, recipes: Recipes) -> str:
    """`config` as YAML that `--config` reads back."""
    parser = make_parser(config, recipes)
    values = parser.get_defaults()
    del values["resume"], values["estimate"], values["dry_run"]
    return parser.dump(values, skip_unset=False)  # a null is a setting too


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two `to_dict()`s and decides what is learned: "key: saved value -> value now"."""
    before, after = _flatten(saved), _flatten(now)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if not _may_change(key, after) and before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


def _may_change(key: str, now: Mapping[str, Any]) -> bool:
    """Whether a flattened setting may differ on resume."""
    head, _, rest = key.partition(".")
    last = rest.rpartition(".")[2]
    if head == "corpus" and last == "fingerprint":
        return bool(now.get("corpus.allow_changed"))
    return head in MAY_CHANGE_ON_RESUME or (head == "corpus" and last in CORPUS_MAY_CHANGE_ON_RESUME)


_ABSENT = object()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def load(path: str | Path, recipes: Recipes) -> TrainConfig:
    """The configuration in a run's config.yaml."""
    return parse(["--config", str(path)], recipes, next(iter(recipes))).config
