"""The endless stream of batches of real data: row i of step s is a pure function of (settings, manifests, seed, s, i).

So any number of processes and workers makes the same batches, and a run resumes at any step at once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from models.config import MMInterleavedConfig
from models.images.fit import FINER
from models.plain_text import PlainTextEncoder
from trainer.data.compose import as_segments, chosen_images, entered_anywhere, in_reading_order
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.document import Document, Image, Segment, Text
from trainer.data.horizontal_flip import flipped
from trainer.data.image_decoding import decode, square, visible_part
from trainer.data.mixture import Mixture, endless_order
from trainer.data.pack import Row, SpecialTokens, Tokens, cut, tokenize
from trainer.data.quarantine import Quarantine
from trainer.data.row_stream import RowStream
from trainer.data.seen_boxes import in_view
from trainer.data.sources.sample import BrokenSampleError, Marks, Sample, StoredImage
from trainer.data.stable_key import stable_key
from trainer.errors import UnusableDataError

MAX_DROPPED = 1000
"""So many samples in a row without one to use: the rules leave nothing of a source."""


class CorpusStream(RowStream):
    """The batches of a run: `stream(step)`.

    Args:
        config: the data.
        model: gives the sizes of images read and drawn, the number of visual tokens and the special tokens.
        seed: another seed, another order.
        quarantine_file: gets a line for each broken sample or image; None: they are only counted.
        tokenizer: what the text is written in; None: the one of `config`.

    Raises:
        ValueError: a manifest is missing, or the tokenizer has more tokens than the model.
    """

    def __init__(
        self,
        config: CorpusConfig,
        model: MMInterleavedConfig,
        *,
        seed: int,
        quarantine_file: Path | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.config = config
        tokenizer = config.tokenizer() if tokenizer is None else tokenizer
        self._encode = PlainTextEncoder(tokenizer)
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

    def read_and_broken(self) -> tuple[int, int]:
        return self._quarantine.num_read, self._quarantine.num_broken

    def source_of(self, step: int, row: int) -> str:
        """The name of the source that a row is filled from."""
        return self._names[self._mixture(step * self.config.num_rows + row)[0]]

    def row(self, step: int, row: int) -> Row:
        """One row of a batch.

        Raises:
            UnusableDataError: more of the data is broken than allowed, or nothing of the source is left by its rules or
                fits a row.
        """
        name = self.source_of(step, row)
        rules = self.config.sources[name]
        packed: list[Tokens] = []
        room, room_images = self.config.row_tokens, rules.max_images_per_row
        num_too_long = 0
        for document in self.documents(step, row):
            tokens = self._tokens(document)
            is_whole = len(tokens.input_ids) <= room and len(tokens.images) <= room_images
            taken = tokens if is_whole else self._beginning(document, tokens, room, room_images)
            if taken is not None:
                packed.append(taken)
                room -= len(taken.input_ids)
                room_images -= len(taken.images)
            if packed and (not is_whole or room_images == 0):
                break
            if not packed and (num_too_long := num_too_long + 1) == MAX_DROPPED:
                raise UnusableDataError(
                    f"{MAX_DROPPED} documents of source '{name}' in succession are longer than a row of "
                    f"{self.config.row_tokens} tokens and {rules.max_images_per_row} images. Make rows longer "
                    f"(corpus.row_tokens), or split documents (corpus.sources.{name}.split)."
                )
        return Row(packed)

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
        """The endless documents that one row of one batch is filled from."""
        name = self.source_of(step, row)
        rules = self.config.sources[name]
        draws = self._draws(name, step, row)
        num_dropped, broken_before = 0, self._quarantine.num_broken
        for number in range(2**62):
            rng = np.random.default_rng([self.seed, step, row, number])
            document = self._document(name, rules, draws, rng)
            if document is not None:
                num_dropped, broken_before = 0, self._quarantine.num_broken
                yield self._entered(document, rng) if rules.split else document
            elif (num_dropped := num_dropped + 1) == MAX_DROPPED:
                raise UnusableDataError(self._why_nothing_is_left(name, self._quarantine.num_broken - broken_before))

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
            document = self._document(name, rules, itertools.chain([index], others), rng)
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

    def _draws(self, name: str, step: int, row: int) -> Iterator[int]:
        """Numbers of the samples that a row looks at: first its share of the endless order, then random ones."""
        count = len(self._manifests[name]) - self.config.sources[name].held_out
        _, rank = self._mixture(step * self.config.num_rows + row)
        key = stable_key(self.seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little"))
        per_row = self.config.sources[name].samples_per_row
        for position in range(rank * per_row, (rank + 1) * per_row):
            yield endless_order(position, count, key)
        rng = np.random.default_rng([key, step, row])
        while True:
            yield int(rng.integers(count))

    def _sample(self, name: str, index: int) -> Sample | None:
        """A sample, None if it is broken."""
        self._quarantine.count()
        try:
            return self._manifests[name][index]
        except BrokenSampleError as error:
            self._quarantine.add(name, self._manifests[name].key(index), str(error))
            return None

    def _document(
        self, name: str, rules: SourceConfig, draws: Iterator[int], rng: np.random.Generator
    ) -> Document | None:
        """The document of the next sample, or of several pairs; None if it is dropped."""
        sample = self._sample(name, next(draws))
        if sample is None or (images := chosen_images(sample, rules, rng)) is None:
            return None
        items: list[str | Text | Image] = []
        truth = {}
        if sample.is_pair:
            items = self._pairs(name, rules, sample, images, draws, rng)
            truth["num_pairs"] = len(items) // 2
        else:
            for item in in_reading_order(sample, images, lambda: rng.random() < 0.5):
                decoded = item if not isinstance(item, StoredImage) else self._decoded(name, item, rng, opens=not items)
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
    ) -> list[str | Text | Image]:
        """A pair, or several as an example of few-shot learning: all with the image first, or all with the caption."""
        image_first = rng.random() < 0.5
        num_pairs = int(rng.integers(*rules.few_shot_pairs, endpoint=True)) if rng.random() < rules.few_shot else 1
        items: list[str | Text | Image] = []
        for number in range(num_pairs):
            if number:
                other = self._sample(name, next(draws))
                if other is None or not other.is_pair or (chosen := chosen_images(other, rules, rng)) is None:
                    continue
                sample, images = other, chosen
            image = self._decoded(name, images[0], rng, opens=image_first and not items)
            if image is not None:
                items += [image, sample.texts[0]] if image_first else [sample.texts[0], image]
        return items

    def _entered(self, document: Document, rng: np.random.Generator) -> Document:
        """A document that is longer than a row from somewhere on, another one as it is."""
        room = self.config.row_tokens - 2  # without `<s>` and `</s>`
        return replace(document, segments=entered_anywhere(document.segments, self._length, room, rng))

    def _decoded(self, name: str, image: StoredImage, rng: np.random.Generator, *, opens: bool) -> Image | None:
        self._quarantine.count()
        fit = self.config.sources[name].fit
        moment = rng.random() if image.strip else None
        try:
            decoded = decode(
                image.read(),
                self.config.max_pixels,
                label_map=image.label_map,
                moment=moment,
                as_stored=image.as_stored,
                described_size=image.described_size,
                min_side=FINER * max(self.image_side, self.drawn_image_side),
            )
        except BrokenSampleError as error:
            self._quarantine.add(name, image.name, str(error))
            return None
        # What opens a document or belongs to a question is never drawn, so nobody needs it at that size.
        target = None if opens or image.given else square(decoded, self.drawn_image_side, fit=fit)
        pixels = square(decoded, self.image_side, fit=fit, label_map=image.label_map)
        visible = visible_part(decoded, fit)
        return Image(pixels, draw=not image.given, placed=not image.given, target=target, visible=visible)

    def _tokens(self, document: Document) -> Tokens:
        return tokenize(document, self._encode, self._special, self.num_visual_tokens)
