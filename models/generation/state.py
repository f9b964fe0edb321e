"""The interface between generation and a model that PyTorch or exported components compute.

Letters: B documents, T new tokens, n new images, M images to draw, c x h x w their latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmfs.arguments import MMFSAttentionArguments
from models.config import MMInterleavedConfig
from models.denoising import Step
from models.denoising_options import Denoising
from models.drawings import Drawings
from models.generation.recorded_queries import RecordedQueries
from models.processor import MMInterleavedProcessor

Piece = list[int] | Tensor
"""Token ids, or an image [3, h, w] in [0, 1] whose `<BoI>` stands right before it. An image that documents share is one
tensor, and is encoded once."""


@dataclass(frozen=True, eq=False)
class NewImages:
    """The images that documents read next."""

    pixels: Tensor
    """[n, 3, h, w]: each of them once."""

    which: list[int]
    """For each place where an image is read, row by row: its number in `pixels`."""

    owners: list[int]
    """For each such place: the document."""


class ContextFull(ValueError):
    """A document would run past the language model's length."""


class GenerativeModel(Protocol):
    """What `generate` can write with."""

    @property
    def config(self) -> MMInterleavedConfig: ...

    @property
    def processor(self) -> MMInterleavedProcessor | None: ...

    def begin_generation(self, num_documents: int) -> GenerationState:
        """An empty state: nothing has been read."""
        ...


def processor_of(model: GenerativeModel) -> MMInterleavedProcessor:
    """The model's processor.

    Raises:
        ValueError: it has none.
    """
    if model.processor is None:
        raise ValueError(
            "This model has no processor, so it can't read text. Load it with MMInterleaved.from_pretrained from a "
            "directory with tokenizer.json, or set model.processor."
        )
    return model.processor


def can_record(model: GenerativeModel) -> bool:
    """Whether the model can tell where MMFS samples."""
    try:
        model.begin_generation(1).record_sampling()
    except ValueError:
        return False
    return True


class GenerationState(ABC):
    """What a batch of documents has read so far, and what comes next.

    Args:
        config: of the model.
        num_documents: B at the beginning.
    """

    logits: Tensor | None
    """[B, vocabulary] float32, for the next token; None before anything was read."""

    def __init__(self, config: MMInterleavedConfig, num_documents: int) -> None:
        self.config = config
        self.documents = list(range(num_documents))  # the document that each row holds
        self.lengths = [0] * num_documents  # tokens read
        self.logits = None
        self.records_sampling = False
        self.queries: list[RecordedQueries | None] = [None] * num_documents
        """If it is recorded, of each row the queries of the token that was read last, which `logits` follow from."""

    def record_sampling(self) -> None:
        """From now on, record where MMFS samples: `queries` of what is read, and `Step.sampled` of what is drawn.

        Raises:
            ValueError: there is no MMFS, or what computes it does not tell.
        """
        if self.config.language_model.mmfs is None and self.config.image_decoder.mmfs is None:
            raise ValueError(
                "This model has no MMFS layers, so it samples no image and has no sampling locations. Leave out "
                "sampling_locations, or load a model with MMFS."
            )
        self.records_sampling = True

    def stop_recording(self) -> None:
        """Record no longer where MMFS samples."""
        self.records_sampling = False
        self.queries = [None] * len(self.documents)

    def new_images(self, rows: Sequence[Sequence[Piece]]) -> NewImages | None:
        """The images among what rows read next; None if there is none."""
        numbers: dict[int, int] = {}  # by the tensor's identity
        distinct: list[Tensor] = []
        which, owners = [], []
        for document, pieces in zip(self.documents, rows, strict=True):
            for piece in pieces:
                if isinstance(piece, Tensor):
                    if id(piece) not in numbers:
                        numbers[id(piece)] = len(distinct)
                        distinct.append(piece)
                    which.append(numbers[id(piece)])
                    owners.append(document)
        return NewImages(torch.stack(distinct), which, owners) if distinct else None

    @abstractmethod
    def read(self, rows: Sequence[Sequence[Piece]]) -> object:
        """Append to each document what it reads next, perhaps nothing.

        Args:
            rows: pieces for each of the B rows.

        Raises:
            ContextFull: a document would become longer than the language model reads; nothing has been read.
        """

    @abstractmethod
    def begin_drawing(self, rows: Sequence[int], seeds: Sequence[int], denoising: Denoising) -> Drawings:
        """The next image of each of these rows, whose `<BoI>` has been read already, before its first step.

        The drawings of other states may join them. Until they are done, the rows read nothing.

        Args:
            rows: M of the B rows.
            seeds: one for each image; it alone determines all that is random about it.
            denoising: how.

        Raises:
            ValueError: more steps than the model was trained with.
        """

    def draw(self, rows: Sequence[int], seeds: Sequence[int], denoising: Denoising) -> Iterator[Step]:
        """Draw these images alone, step by step; arguments and errors as for `begin_drawing`."""
        return self.begin_drawing(rows, seeds, denoising).steps()

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """What was drawn, [M, c, h, w], to images [M, 3, h', w'] float32 in [0, 1]."""

    @abstractmethod
    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows in this order: to leave out documents that are done, or to reorder beams.

        A row may be taken more than once; copies share their document's images and may read no further images.
        """

    @abstractmethod
    def copied(self, rows: Sequence[int]) -> GenerationState:
        """An independent state with a copy of these rows, in this order; see `select`."""

    def split(self, rows: Sequence[int]) -> GenerationState:
        """Let these rows leave: they are a state of their own now, in this order, and the others stay."""
        other = self.copied(rows)
        self.select([row for row in range(len(self.documents)) if row not in rows])
        return other

    @abstractmethod
    def crop(self, row: int, num_tokens: int, num_images: int) -> None:
        """Forget what a row read after its first tokens.

        Its logits are NaN until it reads on: for those behind the last of the tokens that stay, read that one again.

        Args:
            row: the only one of its document.
            num_tokens: that stay, at most those that it has read.
            num_images: images that it read with them.
        """

    def can_join(self, other: GenerationState) -> bool:
        """Whether there is room for the documents of both; a PyTorch model has no bound."""
        return True

    @abstractmethod
    def join(self, other: GenerationState) -> None:
        """Append the rows of another state of the same model, which is used up: documents join others under way.

        They get numbers above those of the documents here (`documents`), and go on as if each were alone.

        Raises:
            ValueError: a document of either has read nothing yet, or there is no room (`can_join`).
        """

    def check_joining(self, other: GenerationState) -> int:
        """Raise ValueError if `join` cannot be; else the number that document 0 of the other state has here."""
        for one in (self, other):
            if 0 in one.lengths:
                raise ValueError(
                    f"Document {one.documents[one.lengths.index(0)]} has read nothing; documents join each other once "
                    "they have read at least <s>."
                )
        return 1 + max(self.documents, default=-1)

    def _note_queries(self, sampled: Sequence[MMFSAttentionArguments], counts: Sequence[int]) -> None:
        """Keep what the last new token of each row asked of the op.

        Args:
            sampled: for all rows.
            counts: of new tokens of each row; one without any keeps the queries that it has.
        """
        for row, count in enumerate(counts):
            if count:
                self.queries[row] = RecordedQueries(sampled, row)

    def _crop(self, row: int, num_tokens: int) -> None:
        """Forget a row's logits, and what is known of it after its first tokens without its other tensors."""
        self.lengths[row], self.queries[row] = num_tokens, None
        if self.logits is not None:
            self.logits = self.logits.clone()
            self.logits[row] = torch.nan

    def _hold(self, other: GenerationState, rows: Sequence[int]) -> None:
        """Take over what is known of these rows of a state without its tensors."""
        self.documents = [other.documents[row] for row in rows]
        self.lengths = [other.lengths[row] for row in rows]
        self.queries = [other.queries[row] for row in rows]

    def _append(self, other: GenerationState, shift: int) -> None:
        """The same of all rows of a state, behind those that are here; its documents are numbered from `shift` on."""
        self.documents = self.documents + [document + shift for document in other.documents]
        self.lengths = self.lengths + other.lengths
        self.queries = self.queries + other.queries
        if other.records_sampling and not self.records_sampling:
            self.record_sampling()

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """The memory that these documents take: keys and values, hidden states, and what MMFS samples."""

    @abstractmethod
    def log_probabilities(self, answers: Sequence[list[int]]) -> list[float]:
        """How likely each answer is after the one document that has been read; the state does not change.

        Args:
            answers: token ids, at least one each.

        Returns:
            For each, the natural logarithm of its tokens' probabilities, summed.

        Raises:
            ContextFull: document and answer are longer than the language model reads.
        """

    def num_tokens(self, pieces: Sequence[Piece]) -> int:
        """Places that pieces take in the language model."""
        num_visual = self.config.visual_tokenizer.num_visual_tokens
        return sum(num_visual if isinstance(piece, Tensor) else len(piece) for piece in pieces)

    def excess(self, row: int, num_new: int) -> int:
        """Tokens that a row would be too long by with `num_new` more of them; 0 or less if they fit."""
        limit = self.config.language_model.max_tokens
        return 0 if limit is None else self.lengths[row] + num_new - limit

    def check_room(self, rows: Sequence[Sequence[Piece]]) -> None:
        """Raise ContextFull if a document would become longer than the language model reads."""
        for row, pieces in enumerate(rows):
            if (excess := self.excess(row, self.num_tokens(pieces))) > 0:
                limit = self.lengths[row] + self.num_tokens(pieces) - excess
                raise ContextFull(
                    f"Document {self.documents[row]} has {limit + excess} tokens; the language model reads {limit}, "
                    f"{excess} less. Give it fewer segments, lower max_new_tokens and max_new_images, or cut it with "
                    "overflow='cut'."
                )

    def lay_out(
        self, rows: Sequence[Sequence[Piece]], range_of: Callable[[int], tuple[int, int]]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """What each row reads next, as tokens.

        Args:
            rows: pieces for each of the B rows; their images are in the bank already.
            range_of: document to its images in the bank, first and one past last.

        Returns:
            Token ids [T] of each row, where visual tokens begin [n, 2], and what each token sees [B, T, 2].
        """
        all_ids, first_visual, all_visible = [], [], []
        for row, pieces in enumerate(rows):
            first, last = range_of(self.documents[row])
            last -= sum(isinstance(piece, Tensor) for piece in pieces)
            ids: list[int] = []
            visible: list[tuple[int, int]] = []
            for piece in pieces:
                if isinstance(piece, Tensor):
                    last += 1
                    first_visual.append((row, len(ids)))
                    piece = [self.config.image_token_id] * self.config.visual_tokenizer.num_visual_tokens
                ids += piece
                visible += [(first, last)] * len(piece)
            all_ids.append(torch.tensor(ids, dtype=torch.int64))
            all_visible.append(torch.tensor(visible, dtype=torch.int64).view(-1, 2))
        return all_ids, torch.tensor(first_visual, dtype=torch.int64).view(-1, 2), pad_sequence(all_visible, True)


def drawn_from(config: MMInterleavedConfig, images: tuple[int, int]) -> tuple[int, int]:
    """The images of the bank that the next image of a document attends to, given those of the document: first and one
    past last."""
    first, last = images
    return (max(last - 1, first), last) if config.image_decoder.context_images == "previous" else images
