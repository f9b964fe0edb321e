"""Where the model looked while it wrote a token or drew a pixel: the sampling locations of MMFS and their weights.

result = model.generate(document, sampling_locations=True)
looked = result.sampling_locations.of_token(5)
looked.sampling_locations[0]              # of the first layer, [images, heads, levels, points, 2]
looked.overlay(image=0).show()            # a heat map on the first image of the document
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image

from mmfs.arguments import MMFSAttentionArguments
from mmfs.sampled import sampled
from models.component_configs import SynchronizerConfig
from models.config import MMInterleavedConfig
from models.generation.boxes import Box
from models.generation.detokenizer import UNFINISHED
from models.generation.documents import PromptSegment
from models.generation.query_locations import QueryLocations
from models.generation.recorded_queries import RecordedQueries
from models.generation.rendering import as_image
from models.images.fit import visible_box
from models.processor import MMInterleavedProcessor
from models.sampling_recorder import of_queries


@dataclass(frozen=True)
class Layers:
    """The synchronizers of a network."""

    names: tuple[str, ...]
    count_ages: bool
    """Whether position embeddings count from the newest image, or from the oldest; `SynchronizerConfig`."""


def language_model_layers(config: MMInterleavedConfig, num_layers: int) -> Layers:
    """Named by the decoder layer that each is in."""
    own = config.language_model
    places = range(own.mmfs_first, own.mmfs_first + num_layers * own.mmfs_every, own.mmfs_every)
    return Layers(tuple(f"language_model.{place}" for place in places), _counts_ages(own.mmfs))


def unet_layers(config: MMInterleavedConfig, num_layers: int) -> Layers:
    """Named by the map of the U-Net that each is on."""
    own = config.image_decoder
    if own.mmfs_placement == "up":
        names = [f"unet.up_blocks.{number}" for number in range(num_layers)]
    else:
        names = [*(f"unet.skips.{number}" for number in range(num_layers - 1)), "unet.mid_block"]
    return Layers(tuple(names), _counts_ages(own.mmfs))


def _counts_ages(mmfs: SynchronizerConfig | None) -> bool:
    return mmfs is not None and mmfs.image_positions == "age"


def one_query(arguments: MMFSAttentionArguments, row: int, place: int) -> MMFSAttentionArguments:
    """The same arguments for one query of a batch, [1, 1, ...]."""
    points = arguments.reference_points.expand(*arguments.sampling_offsets.shape[:2], 2)
    each = arguments._replace(reference_points=points)
    return of_queries(each, lambda tensor: tensor[row : row + 1, place : place + 1])


@dataclass(frozen=True)
class WrittenToken:
    """A token that the model wrote."""

    text: str
    """What it adds to the text: nothing for a part of a character that is not complete yet, for a stop text, which is
    left out of the result, and for `<BoI>`."""

    image: int | None = None
    """Of a `<BoI>`, the number in the document of the image that is drawn there."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image that was drawn."""

    image: Image.Image
    steps: Mapping[int, RecordedQueries]
    """The queries of its pixels, by denoising step."""

    first_image: int
    """The number in the document of the oldest image that they see."""


@dataclass(eq=False)
class SamplingLocations:
    """Where MMFS sampled for each token and each image that continues one document.

    The locations of a token are those of the query that it was chosen by: of what was read before it. Those of a drawn
    image are of one denoising step, predicted with all conditions.
    """

    config: MMInterleavedConfig = field(repr=False)
    processor: MMInterleavedProcessor = field(repr=False)
    prompt: Sequence[PromptSegment] = field(repr=False)
    """What was read of the document before."""

    stops: Sequence[str] = ()
    """The texts that ended it, and that are left out."""

    ids: list[int] = field(default_factory=list, repr=False)
    """Of the written tokens, `<BoI>` among them."""

    queries: list[RecordedQueries | None] = field(default_factory=list, repr=False)
    """For each of them."""

    drawn: list[Drawn] = field(default_factory=list, repr=False)

    def add_tokens(self, ids: Sequence[int], queries: Sequence[RecordedQueries | None]) -> None:
        """Append tokens, each with the queries that it was chosen by."""
        self.ids += ids
        self.queries += queries

    def add_image(self, image: Image.Image, steps: Mapping[int, RecordedQueries]) -> None:
        """Append an image that was drawn, with its queries at some steps."""
        num_before = len(self.given) + len(self.drawn)
        sees_one = self.config.image_decoder.context_images == "previous"
        self.drawn.append(Drawn(image, steps, max(num_before - 1, 0) if sees_one else 0))

    @cached_property
    def _prompt_images(self) -> list[Image.Image]:
        return [as_image(segment) for segment in self.prompt if not isinstance(segment, str)]

    @cached_property
    def given(self) -> list[Image.Image]:
        """The images of the prompt, cut to what the model sees of them."""
        return [self._seen(image) for image in self._prompt_images]

    @property
    def images(self) -> list[Image.Image]:
        """All images of the document, cut to what the model sees of them, in reading order: those that were read, then
        those that were drawn."""
        return [*self.given, *(self._seen(one.image) for one in self.drawn)]

    @property
    def boxes(self) -> list[Box]:
        """The part of each image that the model sees, in shares of the whole image: locations are shares of this
        part."""
        return [self._seen_box(image) for image in [*self._prompt_images, *(one.image for one in self.drawn)]]

    def _seen_box(self, image: Image.Image) -> Box:
        left, top, right, bottom = self._seen_pixels(image)
        return left / image.width, top / image.height, right / image.width, bottom / image.height

    def _seen_pixels(self, image: Image.Image) -> tuple[int, int, int, int]:
        return visible_box(image.size, (self.processor.height, self.processor.width), self.processor.fit)

    def _seen(self, image: Image.Image) -> Image.Image:
        return image.crop(self._seen_pixels(image))

    @property
    def tokens(self) -> list[WrittenToken]:
        """The written tokens; their texts together are the text that was written."""
        found: list[WrittenToken] = []
        num_images, rest = len(self.given), list(self.ids)
        while rest:
            length = rest.index(self.begin_of_image) if self.begin_of_image in rest else len(rest)
            found += map(WrittenToken, self._texts(rest[:length]))
            if length < len(rest):
                found.append(WrittenToken("", num_images))
            num_images, rest = num_images + 1, rest[length + 1 :]
        return found

    def _texts(self, ids: list[int]) -> list[str]:
        """What each of these tokens adds to a text."""
        text = self.processor.decode_text(ids)
        text = text[: min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=len(text))]
        texts, shown = [], 0
        for num in range(1, len(ids) + 1):
            so_far = self.processor.decode_text(ids[:num])
            known = shown if so_far.endswith(UNFINISHED) and num < len(ids) else min(len(so_far), len(text))
            texts.append(text[shown:known])
            shown = max(shown, known)
        return texts

    @property
    def begin_of_image(self) -> int:
        """The id of `<BoI>`."""
        return self.config.begin_of_image_id

    def of_token(self, index: int) -> QueryLocations:
        """Where the language model sampled to write a token.

        Args:
            index: of the token in `tokens`; negative ones count from the end.

        Raises:
            ValueError: there is no such token.
        """
        if not -len(self.ids) <= index < len(self.ids):
            raise ValueError(f"index is {index}; {len(self.ids)} tokens were written, counted from 0.")
        queries = self.queries[index]
        if queries is None:
            raise ValueError(f"Token {index} was chosen before anything was recorded.")
        num_layers = len(queries.arguments)
        return self._locations(queries, [0] * num_layers, language_model_layers(self.config, num_layers), 0)

    def of_text(self, start: int, end: int) -> QueryLocations:
        """The same for the tokens that wrote the characters from `start` to before `end` of the text: of a word."""
        place, chosen = 0, []
        for index, token in enumerate(self.tokens):
            if place < end and place + len(token.text) > start:
                chosen.append(self.of_token(index))
            place += len(token.text)
        if not chosen:
            raise ValueError(f"start is {start} and end {end}; the text has {place} characters, counted from 0.")
        return QueryLocations.mean(chosen)

    def of_pixel(self, image: int, x: float, y: float, step: int = -1) -> QueryLocations:
        """Where the U-Net sampled to draw a place of an image, in one step.

        Args:
            image: its number among those that were drawn, from 0.
            x, y: the place, in [0, 1] of width and height. Each layer has a query for each pixel of its map; that of
                the pixel around the place is taken.
            step: of the drawing, from 1; negative ones count from the end of those that were kept
                (`sampling_locations_steps`).

        Raises:
            ValueError: there is no such image, place or step.
        """
        if not 0 <= image < len(self.drawn):
            raise ValueError(f"image is {image}; {len(self.drawn)} were drawn, counted from 0.")
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"x is {x} and y {y}; expected shares of width and height, from 0 to 1.")
        steps = self.drawn[image].steps
        kept = sorted(steps)
        number = kept[step] if -len(kept) <= step < 0 else step
        if number not in steps:
            raise ValueError(
                f"step is {step}; kept are {', '.join(map(str, kept)) or 'none'}. Name others with "
                "sampling_locations_steps when the image is drawn."
            )
        queries = steps[number]
        place = torch.tensor([x, y])
        nearest = [
            int((arguments.reference_points.cpu() - place).square().sum(-1).argmin()) for arguments in queries.arguments
        ]
        layers = unet_layers(self.config, len(nearest))
        return self._locations(queries, nearest, layers, self.drawn[image].first_image)

    def _locations(
        self, queries: RecordedQueries, places: Sequence[int], layers: Layers, first_image: int
    ) -> QueryLocations:
        """Of one query of each layer, which sees the images from `first_image` on."""
        locations, weights, nulls, num_images = [], [], [], 0
        for arguments, place in zip(queries.arguments, places, strict=True):
            found = sampled(one_query(arguments, queries.row, place), newest_last=layers.count_ages)
            num_images = found.images.shape[2]
            locations.append(found.sampling_locations[0, 0].float().cpu())
            weights.append(found.attention_weights[0, 0].float().cpu())
            nulls.append(found.null_weights[0, 0].float().cpu())
        images = tuple(range(first_image, first_image + num_images))
        return QueryLocations(layers.names, images, tuple(locations), tuple(weights), tuple(nulls), self.images)

    @property
    def num_bytes(self) -> int:
        """The memory that it takes, with the images; what documents of a batch share counts for each of them."""
        arguments = [
            one
            for queries in [*self.queries, *(queries for one in self.drawn for queries in one.steps.values())]
            if queries is not None
            for one in queries.arguments
        ]
        images = [*self._prompt_images, *(one.image for one in self.drawn)]
        tables = {id(table): table for one in arguments for table in (one.offset_table, one.logit_table)}
        return (
            sum(one.sampling_offsets.nbytes + one.attention_logits.nbytes + one.ranges.nbytes for one in arguments)
            + sum(table.nbytes for table in tables.values() if table is not None)
            + sum(3 * image.width * image.height for image in images)
        )
