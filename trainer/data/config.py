"""The settings of training data: the emoji world, or a corpus of sources, what is taken from each, and how rows are
filled.

What they need of libraries is imported where it is used, so that `--help` imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer.data.emoji.compositions import MIN_CONCEPTS
from trainer.data.emoji.tasks import PRETRAINING_FAMILIES, TASKS
from trainer.data.mixture import Mixture

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from trainer.data.sources.manifest import Manifest
    from trainer.data.sources.shard_cache import ShardCache


def _even_weights() -> dict[str, float]:
    return dict.fromkeys(PRETRAINING_FAMILIES, 1.0)


@dataclass(frozen=True)
class DataConfig:
    """The emoji world as training data. Sizes of images and visual tokens are the model's."""

    num_rows: int = 16
    """Rows in a batch."""

    row_tokens: int = 128
    """Tokens in a row."""

    num_concepts: int = 32
    """How many sprites occur, 8 to 256."""

    num_sprites: int = 9
    """The most sprites in an image to read numbers from, 1 to 9."""

    ramp_steps: int = 0
    """Steps over which the most sprites in an image to read grow from 1 to `num_sprites`; 0: all from the start."""

    tasks: dict[str, float] = field(default_factory=_even_weights)
    """Weight of each task family: its share of the documents. A family left out has none."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise ValueError(f"data.tasks has {unknown}; expected some of {list(TASKS)}.")
        if min(self.tasks.values(), default=0) < 0 or not sum(self.tasks.values()) > 0:
            raise ValueError(f"data.tasks is {self.tasks}; expected weights of at least 0, one of them above 0.")
        if self.num_rows < 1 or self.row_tokens < 1:
            raise ValueError(f"data has {self.num_rows} rows of {self.row_tokens} tokens; expected 1 or more of each.")
        if self.ramp_steps < 0:
            raise ValueError(f"data.ramp_steps is {self.ramp_steps}; expected 0 or more.")
        if not 1 <= self.num_sprites <= 9:
            raise ValueError(f"data.num_sprites is {self.num_sprites}; expected 1 to 9.")
        least = max(MIN_CONCEPTS, 3 * self.num_sprites)
        if not least <= self.num_concepts <= 256:
            raise ValueError(
                f"data.num_concepts is {self.num_concepts}; with {self.num_sprites} sprites in an image expected "
                f"{least} to 256, so that images without held-out compositions always exist."
            )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the world's text is written in."""
        from trainer.data.emoji.tokenizer import load_tokenizer

        return load_tokenizer()

    def num_sprites_at(self, step: int) -> int:
        """The most sprites in an image to read at a step of the training."""
        if step >= self.ramp_steps:
            return self.num_sprites
        return 1 + step * (self.num_sprites - 1) // self.ramp_steps


@dataclass(frozen=True)
class SourceConfig:
    """A data set and what is taken from it. The defaults take everything that has an image."""

    manifest: str
    """A directory that `python -m trainer.data.index` wrote, or its URL; empty: the user has to say it."""

    weight: float = 1.0
    """Its share of the rows, among the weights of all sources."""

    min_similarity: float | None = None
    """Drop images less similar to their text than this (CLIP); null: none. Images without a similarity stay."""

    max_images: int | None = None
    """Keep at most so many images of a document, chosen at random; null: all."""

    keep_no_image: float = 0.0
    """The share of documents without images, after the two rules above, that is kept."""

    keep_one_image: float = 1.0
    """The same of documents with one image; pairs of image and caption are not meant."""

    min_caption_chars: int = 0
    """Drop pairs with shorter captions."""

    few_shot: float = 0.0
    """The share of documents, made of pairs, that consist of several pairs."""

    few_shot_pairs: tuple[int, int] = (2, 8)
    """The fewest and the most pairs of such a document."""

    text_loss_needs_image: bool = False
    """Whether text before the first image of its document carries no loss."""

    split: bool = False
    """Whether documents are split to fill rows to the last token; else a row ends with the last one that fits."""

    max_images_per_row: int = 30
    fit: Literal["crop", "squeeze"] = "crop"
    """How an image becomes a square. "crop": its middle (the paper); a sample whose box is not in view there is
    dropped, and other boxes become shares of the middle. "squeeze": all of it, whatever its shape."""

    flip: bool = False
    """Whether half of the documents are mirrored, with their boxes and their words "left" and "right" (the paper's
    RandomHorizontalFlip)."""

    held_out: int = 0
    """The last so many samples of the manifest are never trained on; sheets of samples are made from them
    (`logging.sample_every`)."""

    fingerprint: str | None = None
    """Of the manifest (`Manifest.fingerprint`); null: written down at the start of the run."""

    def __post_init__(self) -> None:
        for name in ("keep_no_image", "keep_one_image", "few_shot"):
            _require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}; expected a share from 0 to 1.")
        _require(self.held_out >= 0, f"held_out is {self.held_out}; expected 0 or more.")
        _require(self.max_images_per_row >= 1, f"max_images_per_row is {self.max_images_per_row}; expected 1 or more.")
        _require(self.weight > 0, f"weight is {self.weight}; expected a number above 0.")
        _require(
            self.max_images is None or self.max_images >= 1,
            f"max_images is {self.max_images}; expected 1 or more, or null for all.",
        )
        fewest, most = self.few_shot_pairs
        _require(
            2 <= fewest <= most, f"few_shot_pairs is {self.few_shot_pairs}; expected two ascending numbers from 2."
        )


@dataclass(frozen=True)
class CorpusConfig:
    """Real data to train on. Sizes of images and visual tokens are the model's."""

    sources: dict[str, SourceConfig]
    """By a name for logs and messages."""

    num_rows: int = 16
    """Rows in a batch; each is filled from one source (paper B.1)."""

    row_tokens: int = 2048
    """Tokens in a row."""

    tokenizer_file: str | None = None
    """The language model's tokenizer.json, or its URL; null: of the model that the run starts from, or without one the
    emoji world's, whose bytes can write any text."""

    max_pixels: int = 64_000_000
    """An image that declares more is broken: unpacked, a small file may fill the memory."""

    decoding: Literal["fine", "fast"] = "fine"
    """How JPEGs that are larger than needed are decoded. "fine": at a half, a quarter or an eighth of their size where
    that leaves twice the pixels that are read or drawn, which makes hardly a difference. "fast": where it leaves as
    many; in less time, and a little less sharp."""

    max_broken: float = 0.01
    """The share of samples and images that may be broken before the run stops (of the first 1000 at the least)."""

    window_shards: int = 16
    """Shards come in random order, and their samples at random within so many of them, which have to be at hand at
    once. More mix better; of data that is read through the cache, two windows have to fit into it."""

    cache: str = "~/.cache/mmfs/shards"
    """The directory on a local disk for shards of object storage, and images from inside of parquet files, while they
    are read; one for all processes of a machine."""

    cache_gb: float = 100.0
    """The most gigabytes (10^9 bytes) that shards may take there; those unused for longest are removed first."""

    allow_changed: bool = False
    """Whether a run may go on with data that has changed since it began."""

    def __post_init__(self) -> None:
        _require(bool(self.sources), "corpus.sources is empty; expected one source or more.")
        _require(
            self.num_rows >= 1 and self.row_tokens >= 2,
            f"corpus has {self.num_rows} rows of {self.row_tokens} tokens; expected at least 1 row of 2.",
        )
        _require(self.max_pixels >= 1, f"corpus.max_pixels is {self.max_pixels}; expected 1 or more.")
        _require(self.window_shards >= 1, f"corpus.window_shards is {self.window_shards}; expected 1 or more.")
        _require(self.cache_gb > 0, f"corpus.cache_gb is {self.cache_gb}; expected a number above 0.")
        _require(0 <= self.max_broken <= 1, f"corpus.max_broken is {self.max_broken}; expected a share from 0 to 1.")
        Mixture([source.weight for source in self.sources.values()], seed=0)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text. Raises ValueError if there is none."""
        from trainer.data.emoji.tokenizer import TOKENIZER_FILE
        from trainer.data.text_tokenizer import read_tokenizer

        return read_tokenizer(str(TOKENIZER_FILE) if self.tokenizer_file is None else self.tokenizer_file)

    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the sources, by name; those at URLs are fetched. Raises ValueError if one is missing."""
        from trainer.data.sources.fetched_manifest import load_manifest_at

        for name, source in self.sources.items():
            if not source.manifest:
                raise ValueError(
                    f"corpus.sources.{name} has no data yet: give the directory that python -m trainer.data.index "
                    f"wrote as --corpus.sources.{name}.manifest, or list the sources that you have as "
                    '--corpus.sources \'{"NAME": {"manifest": "DIRECTORY"}, ...}\'.'
                )
        cache = self.shard_cache()
        return {name: load_manifest_at(source.manifest, cache) for name, source in self.sources.items()}

    def shard_cache(self) -> ShardCache:
        """Where shards of object storage are kept while they are read."""
        from trainer.data.sources.shard_cache import ShardCache

        return ShardCache(Path(self.cache).expanduser(), int(self.cache_gb * 1e9))

    @property
    def fit(self) -> Literal["crop", "squeeze"]:
        """How a model that learned from this data has images fitted: as all sources do, else cropped."""
        return "squeeze" if {source.fit for source in self.sources.values()} == {"squeeze"} else "crop"

    def with_fingerprints(self) -> CorpusConfig:
        """The same, each source with the fingerprint of its data as it is now.

        Raises:
            ValueError: without `allow_changed`, a source has another fingerprint than these settings say, or its shards
                are not those that were indexed.
        """
        sources = {}
        for name, manifest in self.manifests().items():
            source = self.sources[name]
            changed = manifest.changed_shards()
            if source.fingerprint not in (None, manifest.fingerprint):
                changed.append(f"the fingerprint is {manifest.fingerprint}, not {source.fingerprint}")
            if changed and not self.allow_changed:
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                raise ValueError(
                    f"The data of corpus.sources.{name} has changed since it was indexed or the run began: "
                    f"{'; '.join(changed[:3])}{more}. Put it back, index it again for a new run, or go on with what "
                    "there is: --corpus.allow_changed true."
                )
            sources[name] = replace(source, fingerprint=manifest.fingerprint)
        return replace(self, sources=sources)


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)
