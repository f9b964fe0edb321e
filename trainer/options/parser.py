"""How the command line and YAML files change the settings of a run, and how a run writes its settings down."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import jsonargparse
from docstring_parser import parse_from_object

from trainer.config import TrainConfig
from trainer.data.config import CorpusConfig
from trainer.errors import UsageError
from trainer.options.errors import sentence_of
from trainer.options.renamed import RENAMED_RUN_OPTIONS, refuse_renamed_options, refuse_renamed_settings_in_files

PROGRAM = "python -m trainer.pretrain"
RECIPE = "[RECIPE]"
"""What usage calls the first argument, in brackets where it may be left out."""

AUTO, NONE = "auto", "none"
"""What `--resume` may be besides a path."""


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    config: TrainConfig
    resume: str = AUTO
    """AUTO: go on with what the run directory holds. NONE: a new run. Else a checkpoint or a run directory."""

    estimate: str | None = None
    """GPUs and the GB of each, to estimate the run for instead of running it."""

    change: tuple[str, ...] = ()
    """`NAME=VALUE` of settings that are others from here on."""

    dry_run: int | None = None
    """So many steps to try out instead of the run, with nothing written."""


Recipes = Mapping[str, Callable[[], TrainConfig]]


def make_parser(
    config: TrainConfig, recipes: Recipes, program: str = PROGRAM, named: str = RECIPE
) -> jsonargparse.ArgumentParser:
    """The parser whose defaults are `config`; every field of it, nested ones dotted, is an option."""
    jsonargparse.set_parsing_settings(
        docstring_parse_attribute_docstrings=True,
        # A file of settings is data: no class that it names (class_path) is imported or made, except our own settings.
        import_path_denylist=["*"],
        import_path_allowlist=["models.component_configs", "models.config", "models.lora_config", "trainer"],
        instantiate_subclass_spec_in_any=False,
    )
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=f"{program} {named} [--config FILE] [--resume auto|none|PATH] "
        "[--change NAME=VALUE ...] [--print_config] [--OPTION VALUE ...]",
        description=f"{named.strip('[]')} is one of: "
        + "; ".join(f"{name}: {_first_line(function).removesuffix('.')}" for name, function in recipes.items())
        + f". Defaults below are those of {config.recipe}. Exit code: 0 done or paused by max_minutes, 1 stopped by a "
        "non-finite gradient, a full memory or disk, or a corpus that cannot be used, 2 wrong use, 4 other processes "
        "that do not come or do not go on; after a complete checkpoint, 3 SIGTERM, SIGHUP, SIGUSR1, a STOP file in the "
        "run directory or a closed output (| head), and 130 Ctrl-C. With several processes: torchrun --nproc-per-node "
        f"N {program.removeprefix('python ')} {named} ...",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file with any of the options below.")
    parser.add_argument(
        "--resume",
        type=str,
        nargs="?",
        const=AUTO,
        default=AUTO,
        metavar="auto|none|PATH",
        help="auto: go on with an unfinished run in the run directory from its newest checkpoint, or start where there "
        "is none; none: a new run, refused where there is one; PATH: go on from this checkpoint or run directory. "
        "Nothing of a run is ever overwritten by another one.",
    )
    parser.add_argument(
        "--change",
        type=str,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="Go on with other settings and keep what was learned, AdamW's state and the place in the data: "
        'optim.lr=3e-4 num_steps=20000 \'corpus.sources.NAME={"manifest": "DIR"}\' corpus.sources.OTHER=null.',
    )
    parser.add_argument(
        "--estimate",
        type=str | None,
        nargs="?",
        const="1x80",
        default=None,
        metavar="GPUSxGB",
        help="Train nothing; print what the run needs on so many GPUs of so many GB (8x80; without a value 1x80): "
        "parameters, memory, operations, days.",
    )
    parser.add_argument(
        "--dry_run",
        type=int | None,
        default=None,
        metavar="STEPS",
        help="Write nothing; make so many real steps on real data, and report on the data, the speed and the memory.",
    )
    if config.corpus is not None and len(config.corpus.sources) == 1:
        [name] = config.corpus.sources
        short = f"Short for corpus.sources.{name}.manifest."
        parser.add_argument("--manifest", type=str | None, default=None, metavar="DIR", help=short)
    hints = get_type_hints(TrainConfig)
    defaults = {setting.name: getattr(config, setting.name) for setting in dataclasses.fields(TrainConfig)}
    if config.corpus is not None:
        defaults["corpus"] = dataclasses.asdict(config.corpus)  # it cannot print dataclasses within a dictionary
    defaults["history"] = [dataclasses.asdict(change) for change in config.history]
    meanings = {setting.arg_name: setting.description for setting in parse_from_object(TrainConfig).params}
    for name, default in defaults.items():
        meaning = " ".join((meanings.get(name) or "").split()) or None
        parser.add_argument(f"--{name}", type=hints[name], default=default, help=meaning)
    return parser


def _first_line(function: Callable[[], TrainConfig]) -> str:
    return (function.__doc__ or "").splitlines()[0]


def parse(
    arguments: Sequence[str], recipes: Recipes, default: str, program: str = PROGRAM, named: str = RECIPE
) -> Command:
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
        name = _recipe_in_files(options, recipes, default, program, named)
    if name not in recipes:
        raise UsageError(f"There is no recipe '{name}'. Recipes: {', '.join(recipes)}.")
    command = _parse(options, recipes, name, program, named)
    if command.config.recipe != name:
        raise UsageError(
            f"The settings are of recipe '{command.config.recipe}', but the command names '{name}'. "
            f"Leave the name out, or start it as: {program} {command.config.recipe} {' '.join(options)}"
        )
    return command


def _parse(options: list[str], recipes: Recipes, name: str, program: str, named: str) -> Command:
    refuse_renamed_options(options, RENAMED_RUN_OPTIONS)
    refuse_renamed_settings_in_files(options)
    parser = make_parser(recipes[name](), recipes, program, named)
    try:
        values = parser.instantiate(parser.parse_args(options)).as_dict()
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        sentence = sentence_of(error, options, TrainConfig)
        raise UsageError(f"{sentence} All options and their values: {program} {name} --print_config") from error
    asked = {name: values.pop(name) for name in ("resume", "estimate", "dry_run")}
    asked["change"] = tuple(values.pop("change"))
    del values["config"]
    if (manifest := values.pop("manifest", None)) is not None:
        values["corpus"] = with_manifest(values["corpus"], manifest)
    if asked["dry_run"] is not None and asked["dry_run"] < 1:
        raise UsageError(f"dry_run is {asked['dry_run']}; expected 1 or more steps.")
    if asked["change"] and (asked["dry_run"] is not None or asked["estimate"] is not None):
        raise UsageError("--change is of a run that goes on; expected neither --dry_run nor --estimate with it.")
    refuse_non_finite(values)
    return Command(TrainConfig(**values), **asked)


def settings_of(values: Mapping[str, Any], recipes: Recipes) -> TrainConfig:
    """The inverse of `TrainConfig.to_dict`. Raises UsageError if a value is of another type, or not a possible one."""
    parser = make_parser(recipes[values["recipe"]](), recipes)
    try:
        parsed = parser.instantiate(parser.parse_object(copy.deepcopy(dict(values)))).as_dict()  # it changes its lists
        settings = {setting.name: parsed[setting.name] for setting in dataclasses.fields(TrainConfig)}
        refuse_non_finite(settings)
        return TrainConfig(**settings)
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise UsageError(sentence_of(error, [], TrainConfig)) from error


def refuse_non_finite(values: Any, name: str = "") -> None:
    """Raise UsageError for a number in settings, at any depth, that is NaN or infinite: most comparisons of a check let
    NaN through."""
    if isinstance(values, float) and not math.isfinite(values):
        raise UsageError(f"{name} is {values}; expected a finite number.")
    if dataclasses.is_dataclass(values):
        values = {one.name: getattr(values, one.name) for one in dataclasses.fields(values)}
    if isinstance(values, list | tuple):
        values = dict(enumerate(values))
    if isinstance(values, dict):
        for key, value in values.items():
            refuse_non_finite(value, f"{name}.{key}" if name else str(key))


def with_manifest(corpus: CorpusConfig, manifest: str) -> CorpusConfig:
    """The data of a corpus with one source. Raises UsageError if it has several."""
    if len(corpus.sources) != 1:
        raise UsageError(
            f"--manifest is of one source; the corpus has {', '.join(corpus.sources)}. Give each its own: "
            "--corpus.sources.NAME.manifest."
        )
    [(name, source)] = corpus.sources.items()
    return dataclasses.replace(corpus, sources={name: dataclasses.replace(source, manifest=manifest)})


def _recipe_in_files(options: list[str], recipes: Recipes, default: str, program: str, named: str) -> str:
    if not any(option.partition("=")[0] == "--config" for option in options):
        return default
    quiet = [option for option in options if not option.startswith("--print_config")]
    return _parse(quiet, recipes, default, program, named).config.recipe


def dump(config: TrainConfig, recipes: Recipes) -> str:
    """`config` as YAML that `--config` reads back."""
    parser = make_parser(config, recipes)
    values = parser.get_defaults()
    for name in ("resume", "change", "estimate", "dry_run", "manifest"):
        values.pop(name, None)
    return parser.dump(values, skip_unset=False)  # a null is a setting too


def load(path: str | Path, recipes: Recipes) -> TrainConfig:
    """The configuration in a run's config.yaml."""
    return parse(["--config", str(path)], recipes, next(iter(recipes))).config
