"""The endless stream of batches of real data: row i of step s is a pure function of (settings, manifests, seed, s, i).

So any number of processes and workers makes the same batches, and a run resumes at any step at once. A row takes the
samples that follow, in the order of its source (`shard_order`), on those of the row before (`row_starts`), so that all
samples come once before any comes again. How many it takes is decided by their texts and the numbers of their images,
before an image is decoded; so a broken image leaves a gap in its row and changes no other row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from models.config import MMInterleavedConfig
from models.images.fit import FINER
from models.object_storage import StorageError
from models.plain_text import PlainTextEncoder
from models.printable import printable
from trainer.change_history import SettingsChange
from trainer.data.compose import as_segments, chosen_images, entered_anywhere, in_reading_order
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.document import Document, Image, Segment, Text
from trainer.data.horizontal_flip import flipped
from trainer.data.image_decoding import decode, square, visible_part
from trainer.data.mixture import Mixture
from trainer.data.pack import Row, SpecialTokens, Tokens, cut, tokenize
from trainer.data.quarantine import Quarantine
from trainer.data.row_starts import RowStarts
from trainer.data.row_stream import RowStream
from trainer.data.seen_boxes import in_view
from trainer.data.shard_order import ShardOrder
from trainer.data.sources.sample import BrokenSampleError, Marks, Sample, StoredImage
from trainer.data.sources.shard_cache import CacheableFile, ReadAhead
from trainer.data.stable_key import stable_key
from trainer.errors import UnusableDataError

MAX_DROPPED = 1000
"""So many samples in a row without one to use: the rules leave nothing of a source."""

NO_PIXELS = np.zeros((1, 1, 3), dtype=np.uint8)
"""In the place of an image that is not read yet."""


@dataclass
class _Found:
    """What was made of the samples from a position on."""

    document: Document | None = None
    """None: they are dropped."""

    num_samples: int = 0
    num_read: int = 0
    """The same, also of documents that take no samples of the order."""

    broken: list[tuple[int, str]] = field(default_factory=list)
    """Those of these samples that are broken, by number, and why; images do not count."""

    ends: list[int] = field(default_factory=list)
    """Of a document of pairs, how many samples make the first pair, the first two, and so on."""


@dataclass
class _RowPlan:
    """What a row is made of, known from lengths alone."""

    placed: list[tuple[int, int]] = field(default_factory=list)
    """The positions of its documents in the source's order, each with the number of samples it is made of."""

    end: int = 0
    """Where the next row begins."""

    num_read: int = 0
    """Samples that were looked at."""

    broken: list[tuple[int, str]] = field(default_factory=list)
    """As in `_Found`."""


def _storage_sentence(error: StorageError, sample: str) -> str:
    """What a person has to know when storage gives nothing out; nothing of the data is broken."""
    return (
        f"{error} It was needed for sample {printable(sample)}. Nothing is lost: when storage answers again, the same "
        "command goes on from the last checkpoint."
    )


def _sums_before(sizes: Iterable[int]) -> list[int]:
    return [0, *itertools.accumulate(sizes)][:-1]


@dataclass(frozen=True)
class DataStart:
    """Where the data goes on with other sources, weights or numbers of rows."""

    step: int = 0
    """The first step with them, from which rows are counted."""

    rows_passed: Mapping[str, int] = field(default_factory=dict)
    """Rows that each source has filled before; 0 of one that is not named."""

    @classmethod
    def of(cls, history: Sequence[SettingsChange]) -> DataStart:
        """The last one of a run; the run's beginning without any."""
        return next((cls(one.step, one.rows_passed) for one in reversed(history) if one.rows_passed is not None), cls())

    def rows_passed_at(self, config: CorpusConfig, seed: int, step: int) -> dict[str, int]:
        """Rows that each source has filled before a step, from the run's beginning on.

        Args:
            config: the data, as it is from here to `step`.
            seed: of the run.
            step: not before this one.
        """
        mixture = Mixture([source.weight for source in config.sources.values()], seed)
        counts = mixture.before((step - self.step) * config.num_rows)
        return {name: self.rows_passed.get(name, 0) + n for name, n in zip(config.sources, counts, strict=True)}


class CorpusStream(RowStream):
    """The batches of a run: `stream(step)`.

    Args:
        config: the data.
        model: gives the sizes of images read and drawn, the number of visual tokens and the special tokens.
        seed: another seed, another order.
        quarantine_file: gets a line for each broken sample or image; None: they are only counted.
        row_starts: the directory of a file for each source in which processes tell each other where rows begin; None:
            every process finds out by itself.
        tokenizer: what the text is written in; None: the one of `config`.
        start: where a run that was changed on its way goes on; None: at its beginning.

    Raises:
        ValueError: a manifest is missing, the tokenizer has more tokens than the model, or the cache is too small for
            two windows.
    """

    def __init__(
        self,
        config: CorpusConfig,
        model: MMInterleavedConfig,
        *,
        seed: int,
        quarantine_file: Path | None = None,
        row_starts: Path | None = None,
        tokenizer: Tokenizer | None = None,
        start: DataStart | None = None,
    ) -> None:
        self.config = config
        self._start = start or DataStart()
        tokenizer = config.tokenizer() if tokenizer is None else tokenizer
        self._encode = PlainTextEncoder(tokenizer)
        self._tokenizer_text = tokenizer.to_str()
        special = SpecialTokens(
            pad=model.pad_token_id,
            begin=model.bos_token_id,
            end=model.eos_token_id,
            begin_of_image=model.begin_of_image_id,
            image=model.image_token_id,
        )
        super().__init__(
            model,
            special,
            num_rows=config.num_rows,
            row_tokens=config.row_tokens,
            seed=seed,
            datasets=list(config.sources),
        )
        lm = model.language_model
        vocabulary = max(lm.transformer["vocab_size"], (lm.new_tokens_from or 0) + lm.new_tokens)
        num_tokens = tokenizer.get_vocab_size()
        if num_tokens > vocabulary:
            raise ValueError(
                f"The tokenizer has {num_tokens} tokens, the language model {vocabulary}. Give "
                "corpus.tokenizer_file the model's own tokenizer."
            )
        if config.row_tokens < self.num_visual_tokens + 3:
            raise ValueError(
                f"corpus.row_tokens is {config.row_tokens}; an image alone needs {self.num_visual_tokens + 3}, with "
                "`<s>`, `<BoI>` and `</s>`."
            )
        # A SentencePiece-like tokenizer puts the space before a word itself.
        self._space = "" if tokenizer.encode("a", add_special_tokens=False).tokens[0].startswith("▁") else " "
        self._manifests = config.manifests()
        for name, source in config.sources.items():
            if source.held_out >= len(self._manifests[name]):
                raise ValueError(
                    f"corpus.sources.{name}.held_out is {source.held_out}; expected less than its "
                    f"{len(self._manifests[name])} samples, for some are to be trained on."
                )
        self._names = list(config.sources)
        self._mixture = Mixture([source.weight for source in config.sources.values()], seed)
        self._quarantine = Quarantine(quarantine_file, config.max_broken)
        self._orders = {name: self._order_of(name) for name in self._names}
        self._starts = {
            name: RowStarts(
                partial(self._next_start, name), None if row_starts is None else row_starts / self._starts_file(name)
            )
            for name in self._names
        }
        self._read_ahead = ReadAhead(config.shard_cache())
        self._windows_ahead = dict.fromkeys(self._names, -1)
        """For each source, where the window begins whose successor is being fetched."""

        self._check_cache()

    def _order_of(self, name: str) -> ShardOrder:
        """The order of a source's samples, without those that are held out."""
        sizes = [shard.num_samples for shard in self._manifests[name].shards]
        left = sum(sizes) - self.config.sources[name].held_out
        trained = [max(0, min(size, left - before)) for size, before in zip(sizes, _sums_before(sizes), strict=True)]
        return ShardOrder(trained, self._key(name), self.config.window_shards)

    def _key(self, name: str) -> int:
        return stable_key(self.seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little"))

    def _starts_file(self, name: str) -> str:
        """A name that is another one wherever rows would begin elsewhere."""
        facts = (
            dataclasses.asdict(replace(self.config.sources[name], manifest="", weight=1.0, fingerprint=None)),
            (self._manifests[name].fingerprint, self._key(name), self.config.window_shards, self.row_tokens),
            (self.num_visual_tokens, self._space, hashlib.blake2b(self._tokenizer_text.encode()).hexdigest()),
        )
        return f"{hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()}.u64"

    def _check_cache(self) -> None:
        """Raise ValueError if two windows of each source that is read through the cache have no room there."""
        needed = 0
        for name in self._names:
            sizes = sorted(one.size_bytes for one in self._cacheable(name, range(len(self._manifests[name].shards))))
            needed += sum(sizes[-2 * self.config.window_shards :])
        if needed > self.config.cache_gb * 1e9:
            raise ValueError(
                f"corpus.cache_gb is {self.config.cache_gb:g}; two windows of {self.config.window_shards} shards of "
                f"each source in object storage, or with images inside of tables, need up to {needed / 1e9:.3g} GB. "
                "Raise it, or make windows smaller: corpus.window_shards."
            )

    def _cacheable(self, name: str, shards: Iterable[int]) -> list[CacheableFile]:
        """What the cache holds of a source's shards while they are read."""
        manifest = self._manifests[name]
        return [shard for number in shards if (shard := manifest.cacheable(number)) is not None]

    def _fetch_ahead(self, name: str, position: int) -> None:
        """Have the shards of a position's window fetched, and from a quarter of it on those of the next one."""
        order = self._orders[name]
        window = order.window(position)
        is_under_way = position - window.first >= (window.end - window.first) // 4
        mark = 2 * window.first + is_under_way
        if mark <= self._windows_ahead[name]:
            return
        self._windows_ahead[name] = mark
        following = order.window(window.end).shards if is_under_way else ()
        if wanted := self._cacheable(name, (*window.shards, *following)):
            self._read_ahead.want(wanted)

    def read_and_broken(self) -> tuple[int, int]:
        return self._quarantine.num_read, self._quarantine.num_broken

    def source_of(self, step: int, row: int) -> str:
        """The name of the source that a row is filled from."""
        return self._place(step, row)[0]

    def _place(self, step: int, row: int) -> tuple[str, int]:
        """The source of a row, and how many rows it has filled before."""
        source, rank = self._mixture((step - self._start.step) * self.config.num_rows + row)
        name = self._names[source]
        return name, self._start.rows_passed.get(name, 0) + rank

    def row(self, step: int, row: int) -> Row:
        """One row of a batch.

        Raises:
            UnusableDataError: more of the data is broken than allowed, or nothing of the source is left by its rules or
                fits a row.
        """
        name = self.source_of(step, row)
        packed: list[Tokens] = []
        room, room_images = self.config.row_tokens, self.config.sources[name].max_images_per_row
        planned = list(self._documents_of_row(name, step, row))
        # Where all that was meant for a row is broken, something else has to stand in it.
        for document in planned or self._random_documents(name, step, row):
            tokens: Tokens | None = self._tokens(document)
            assert tokens is not None
            if len(tokens.input_ids) > room or len(tokens.images) > room_images:
                tokens = self._beginning(document, tokens, room, room_images)
            if tokens is not None:
                packed.append(tokens)
                room -= len(tokens.input_ids)
                room_images -= len(tokens.images)
                if not planned:
                    break
        return Row(packed)

    def _documents_of_row(self, name: str, step: int, row: int) -> Iterator[Document]:
        """The documents that a row is filled with, those left out of which nothing but broken images is left."""
        _, rank = self._place(step, row)
        plan = self._filled(name, self._starts[name](rank))
        self._starts[name].learn(rank + 1, plan.end)
        self._tell(name, plan.num_read, plan.broken)
        for position, num_samples in plan.placed:
            document = self._at(name, position, num_samples=num_samples).document
            if document is not None:
                yield document

    def _next_start(self, name: str, start: int) -> int:
        """Where the row after the one that begins at a position begins."""
        return self._filled(name, start).end

    def _filled(self, name: str, start: int) -> _RowPlan:
        """What a row that begins at a position of the source's order takes. No image is read."""
        rules = self.config.sources[name]
        plan = _RowPlan()
        placed = plan.placed
        room, room_images = self.config.row_tokens, rules.max_images_per_row
        position, num_dropped, num_too_long, num_broken = start, 0, 0, 0
        while room_images:
            self._fetch_ahead(name, position)
            found = self._at(name, position, decodes=False)
            plan.num_read += found.num_read
            plan.broken += found.broken
            num_broken += len(found.broken)
            document, num_samples = found.document, found.num_samples
            if document is None:
                position += num_samples
                if (num_dropped := num_dropped + 1) == MAX_DROPPED:
                    self._tell(name, plan.num_read, plan.broken)
                    raise UnusableDataError(self._why_nothing_is_left(name, num_broken))
                continue
            num_dropped = num_broken = 0
            tokens: Tokens | None = self._tokens(document)
            assert tokens is not None
            is_whole = len(tokens.input_ids) <= room and len(tokens.images) <= room_images
            if not is_whole:
                tokens = self._beginning(document, tokens, room, room_images)
                if tokens is not None and found.ends:
                    num_samples = found.ends[len(tokens.images) - 1]  # the other pairs begin the next row
            if tokens is not None:
                placed.append((position, num_samples))
                room -= len(tokens.input_ids)
                room_images -= len(tokens.images)
            elif placed:
                break  # it begins the next row
            elif (num_too_long := num_too_long + 1) == MAX_DROPPED:
                raise UnusableDataError(
                    f"{MAX_DROPPED} documents of source '{name}' in succession are longer than a row of "
                    f"{self.config.row_tokens} tokens and {rules.max_images_per_row} images. Make rows longer "
                    f"(corpus.row_tokens), or split documents (corpus.sources.{name}.split)."
                )
            position += num_samples
            if tokens is not None and not is_whole:
                break
        plan.end = position
        return plan

    def _tell(self, name: str, num_read: int, broken: Iterable[tuple[int, str]]) -> None:
        """Count samples that were read, and name those that are broken. Raises UnusableDataError if too many are."""
        self._quarantine.count(num_read)
        for index, reason in broken:
            self._quarantine.add(name, self._manifests[name].key(index), reason)

    def _beginning(self, document: Document, tokens: Tokens, room: int, room_images: int) -> Tokens | None:
        """As much of a document as fits what is left of a row: of several pairs the first ones, of another one, where
        its source is split, tokens and whole images; None if that is nothing."""
        if "num_pairs" in document.truth:
            for num_pairs in range(document.truth["num_pairs"] - 1, 0, -1):
                fewer = self._tokens(replace(document, segments=document.segments[: 2 * num_pairs]))
                if len(fewer.input_ids) <= room and len(fewer.images) <= room_images:
                    return fewer
            return None
        if not self.config.sources[document.task].split:
            return None
        first = cut(tokens, room, self.num_visual_tokens, room_images)
        return first if len(first.input_ids) > 1 else None  # more than `<s>`

    def documents(self, step: int, row: int) -> Iterator[Document]:
        """The documents that one row of one batch is filled with, and endlessly others of its source."""
        name = self.source_of(step, row)
        yield from self._documents_of_row(name, step, row)
        yield from self._random_documents(name, step, row)

    def _random_documents(self, name: str, step: int, row: int) -> Iterator[Document]:
        """Endless documents of a source, drawn at random from the window that a row lies in."""
        _, rank = self._place(step, row)
        window = self._orders[name].window(self._starts[name](rank))
        num_dropped, broken_before = 0, self._quarantine.num_broken
        for number in itertools.count():
            rng = np.random.default_rng([self._key(name), step, row, number])
            found = self._at(name, int(rng.integers(window.first, window.end)), rng)
            self._tell(name, found.num_read, found.broken)
            if found.document is not None:
                num_dropped, broken_before = 0, self._quarantine.num_broken
                yield found.document
            elif (num_dropped := num_dropped + 1) == MAX_DROPPED:
                raise UnusableDataError(self._why_nothing_is_left(name, self._quarantine.num_broken - broken_before))

    def _at(
        self,
        name: str,
        position: int,
        rng: np.random.Generator | None = None,
        *,
        num_samples: int | None = None,
        decodes: bool = True,
    ) -> _Found:
        """The document that begins at a position of a source's order.

        Args:
            name: of the source.
            position: of the first of its samples.
            rng: makes its choices; None: the one that belongs to the position.
            num_samples: how many it is made of at most; None: as many as it is.
            decodes: whether its images are read; else others stand in their places.
        """
        rules, order = self.config.sources[name], self._orders[name]
        rng = np.random.default_rng([self._key(name), position]) if rng is None else rng
        found = _Found()

        def draws() -> Iterator[int]:
            for number in itertools.count() if num_samples is None else range(num_samples):
                found.num_samples += 1
                yield order(position + number)

        found.document = self._document(name, rules, draws(), rng, found, decodes=decodes)
        if found.document is not None and rules.split:
            found.document = self._entered(found.document, rng)
        return found

    def _why_nothing_is_left(self, name: str, num_broken: int) -> str:
        missing = self._manifests[name].num_missing_images
        reasons = [
            *([f"{num_broken} samples and images among them are broken"] if num_broken else []),
            *([f"{missing:,} images that its documents name were not found when it was indexed"] if missing else []),
        ]
        told = "".join(f" {reason}." for reason in reasons)
        return (
            f"{MAX_DROPPED} samples of source '{name}' in succession were dropped or broken.{told} Mend its data, "
            f"loosen the rules of corpus.sources.{name} (keep_no_image keeps documents without an image), or leave it "
            "out."
        )

    def held_out(self, name: str, max_tokens: int) -> Iterator[Document]:
        """The documents of a source that are never trained on, as far as its rules keep them; always the same ones.

        Of longer ones, as many segments as make `max_tokens`. All have two or more: something to go on from, and how it
        does.
        """
        rules = self.config.sources[name]
        count = len(self._manifests[name])
        for index in range(count - rules.held_out, count):
            rng = np.random.default_rng(index)
            others = (int(rng.integers(count - rules.held_out, count)) for _ in itertools.count())
            found = _Found()
            document = self._document(name, rules, itertools.chain([index], others), rng, found)
            self._tell(name, found.num_read, found.broken)
            if document is not None:
                fitting = self._fitting(document.segments, max_tokens)
                if len(fitting) > 1:
                    yield replace(document, segments=fitting)

    def _fitting(self, segments: tuple[Segment, ...], max_tokens: int) -> tuple[Segment, ...]:
        """As many of the first segments as make so many tokens, with `<s>` and `</s>`."""
        ends = itertools.accumulate(map(self._length, segments), initial=2)
        next(ends)
        return tuple(segment for segment, end in zip(segments, ends, strict=True) if end <= max_tokens)

    def _length(self, segment: Segment) -> int:
        """The tokens of a segment."""
        if isinstance(segment, Image):
            return 1 + self.num_visual_tokens
        return len(self._encode(segment.text))

    def _sample(self, name: str, index: int, found: _Found) -> Sample | None:
        """A sample, None if it is broken."""
        found.num_read += 1
        try:
            return self._manifests[name][index]
        except BrokenSampleError as error:
            found.broken.append((index, str(error)))
            return None
        except StorageError as error:
            raise UnusableDataError(_storage_sentence(error, f"{name}/{self._manifests[name].key(index)}")) from error

    def _document(
        self,
        name: str,
        rules: SourceConfig,
        draws: Iterator[int],
        rng: np.random.Generator,
        found: _Found,
        *,
        decodes: bool = True,
    ) -> Document | None:
        """The document of the next sample, or of several pairs; None if it is dropped."""
        sample = self._sample(name, next(draws), found)
        if sample is None or (images := chosen_images(sample, rules, rng)) is None:
            return None
        items: list[str | Text | Image] = []
        truth = {}
        if sample.is_pair:
            items = self._pairs(name, rules, sample, images, draws, rng, found, decodes=decodes)
            truth["num_pairs"] = len(items) // 2
        else:
            for item in in_reading_order(sample, images, lambda: rng.random() < 0.5):
                decoded = (
                    item
                    if not isinstance(item, StoredImage)
                    else self._decoded(name, item, rng, opens=not items, decodes=decodes)
                )
                if decoded is None and sample.marks != Marks():
                    return None
                items += [] if decoded is None else [decoded]
            if images and not any(isinstance(item, Image) for item in items):
                return None
        if not items:
            return None
        segments = as_segments(items, text_loss_needs_image=rules.text_loss_needs_image, space=self._space)
        if sample.marks != Marks():
            in_crops = in_view(segments)
            if in_crops is None:
                return None
            segments = in_crops
        if rules.flip and rng.random() < 0.5:
            segments = flipped(segments)
        return Document(segments, task=name, key=f"{name}/{sample.key}", prompt=0, truth=truth)

    def _pairs(
        self,
        name: str,
        rules: SourceConfig,
        sample: Sample,
        images: list[StoredImage],
        draws: Iterator[int],
        rng: np.random.Generator,
        found: _Found,
        *,
        decodes: bool,
    ) -> list[str | Text | Image]:
        """A pair, or several as an example of few-shot learning: all with the image first, or all with the caption.
        They end where `draws` do."""
        image_first = rng.random() < 0.5
        num_pairs = int(rng.integers(*rules.few_shot_pairs, endpoint=True)) if rng.random() < rules.few_shot else 1
        items: list[str | Text | Image] = []
        for number in range(num_pairs):
            if number:
                if (index := next(draws, None)) is None:
                    break
                other = self._sample(name, index, found)
                if other is None or not other.is_pair or (chosen := chosen_images(other, rules, rng)) is None:
                    continue
                sample, images = other, chosen
            image = self._decoded(name, images[0], rng, opens=image_first and not items, decodes=decodes)
            if image is not None:
                items += [image, sample.texts[0]] if image_first else [sample.texts[0], image]
                found.ends.append(found.num_samples)
        return items

    def _entered(self, document: Document, rng: np.random.Generator) -> Document:
        """A document that is longer than a row from somewhere on, another one as it is."""
        room = self.config.row_tokens - 2  # without `<s>` and `</s>`
        return replace(document, segments=entered_anywhere(document.segments, self._length, room, rng))

    def _decoded(
        self, name: str, image: StoredImage, rng: np.random.Generator, *, opens: bool, decodes: bool
    ) -> Image | None:
        moment = rng.random() if image.strip else None
        if not decodes:
            return Image(NO_PIXELS, draw=not image.given, placed=not image.given)
        self._quarantine.count()
        fit = self.config.sources[name].fit
        try:
            decoded = decode(
                image.read(),
                self.config.max_pixels,
                label_map=image.label_map,
                moment=moment,
                as_stored=image.as_stored,
                described_size=image.described_size,
                min_side=(FINER if self.config.decoding == "fine" else 1) * max(self.image_side, self.drawn_image_side),
            )
        except BrokenSampleError as error:
            self._quarantine.add(name, image.name, str(error))
            return None
        except StorageError as error:
            raise UnusableDataError(_storage_sentence(error, f"{name}/{image.name}")) from error
        # What opens a document or belongs to a question is never drawn, so nobody needs it at that size.
        target = None if opens or image.given else square(decoded, self.drawn_image_side, fit=fit)
        pixels = square(decoded, self.image_side, fit=fit, label_map=image.label_map)
        visible = visible_part(decoded, fit)
        return Image(pixels, draw=not image.given, placed=not image.given, target=target, visible=visible)

    def _tokens(self, document: Document) -> Tokens:
        return tokenize(document, self._encode, self._special, self.num_visual_tokens)
