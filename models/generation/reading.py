"""What a batch of documents has read so far, kept so that nothing is computed twice.

Letters: B documents, T new tokens, K tokens so far (a document that had nothing to read has gaps), C language-model
width, N images of the bank, S pyramid pixels, F feature width, M pictures to draw.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from models.denoising import Denoising, Step
from models.generation.image_bank import ImageBank

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved

Piece = list[int] | Tensor
"""Token ids, or a picture [3, H, W] in [0, 1] whose `<BoI>` stands right before it."""


class ContextFull(ValueError):
    """A document would run past the language model's length."""


class Reading:
    """Keys and values of the language model, values of MMFS and hidden states of `num_documents` documents."""

    def __init__(self, model: MMInterleaved, num_documents: int = 1) -> None:
        self.model = model
        self.cache = DynamicCache()
        self.documents = list(range(num_documents))  # the document that each row holds
        self.lengths = [0] * num_documents  # tokens read
        self.hidden: list[Tensor] = []  # [B, T, C] each, K together
        self.exists = torch.zeros(num_documents, 0, dtype=torch.bool, device=model.device)  # [B, K], False in gaps
        self.logits: Tensor | None = None  # [B, vocabulary] float32, for the next token
        num_pixels = sum(h * w for h, w in model.visual_tokenizer.spatial_shapes)
        nothing = model.begin_of_image.new_zeros(0, num_pixels, model.config.vision.clip["hidden_size"])
        self.seen = ImageBank(model.language_model.project_values, nothing)
        self.drawn_from = ImageBank(model.image_decoder.unet.project_values, nothing)

    def num_tokens(self, pieces: Sequence[Piece]) -> int:
        """Places that pieces take in the language model."""
        num_visual = self.model.config.vision.num_visual_tokens
        return sum(num_visual if isinstance(piece, Tensor) else len(piece) for piece in pieces)

    def excess(self, row: int, num_new: int) -> int:
        """Tokens that a row would be too long by with `num_new` more of them; 0 or less if they fit."""
        limit: int | None = self.model.config.language_model.transformer.get("max_position_embeddings")
        return 0 if limit is None else self.lengths[row] + num_new - limit

    def read(self, rows: Sequence[Sequence[Piece]]) -> Tensor:
        """Append to each document what it reads next, perhaps nothing.

        Args:
            rows: pieces for each of the B rows.

        Returns:
            The new hidden states [B, T, C]; a row that read less than T tokens ends in meaningless ones.

        Raises:
            ContextFull: a document would become longer than the language model reads; nothing has been read.
        """
        for row, pieces in enumerate(rows):
            if (excess := self.excess(row, self.num_tokens(pieces))) > 0:
                limit = self.lengths[row] + self.num_tokens(pieces) - excess
                raise ContextFull(
                    f"Document {self.documents[row]} has {limit + excess} tokens; the language model reads {limit}, "
                    f"{excess} less. Give it fewer segments, lower max_new_tokens and max_new_images, or cut it with "
                    "overflow='cut'."
                )
        device = self.model.device
        visual_tokens = self._encode(rows)
        ids, first_visual, visible = self._lay_out(rows)
        lengths = torch.tensor([len(row) for row in ids], device=device)
        input_ids = pad_sequence(ids, True, self.model.config.pad_token_id).to(device)
        new = torch.arange(input_ids.shape[1], device=device)
        here = self.exists.shape[1] + new.unsqueeze(1)  # [T, 1]
        self.exists = torch.cat([self.exists, new < lengths.unsqueeze(1)], dim=1)
        column = torch.arange(self.exists.shape[1], device=device)
        hidden = self.model.language_model(
            self.model.embed(input_ids, visual_tokens, first_visual.to(device)),
            position_ids=torch.tensor(self.lengths, device=device).unsqueeze(1) + new,
            # A gap attends to itself: its states, which nobody reads, would be NaN otherwise, and 0 * NaN is NaN.
            mask=(((column < here) & self.exists.unsqueeze(1)) | (column == here)).unsqueeze(1),
            values=self.seen.values(),
            visible=visible.to(device),
            cache=self.cache,
        )
        self.hidden.append(hidden)
        self.lengths = [before + len(row) for before, row in zip(self.lengths, ids, strict=True)]
        last = hidden[torch.arange(len(rows), device=device), (lengths - 1).clamp(min=0)]  # [B, C]
        logits = self.model.language_model.logits(last).float()
        self.logits = logits if self.logits is None else torch.where((lengths > 0)[:, None], logits, self.logits)
        return hidden

    def _encode(self, rows: Sequence[Sequence[Piece]]) -> Tensor:
        """Visual tokens [n, num_visual_tokens, C] of all new pictures; their features go into the banks."""
        pictures = [(row, piece) for row, pieces in enumerate(rows) for piece in pieces if isinstance(piece, Tensor)]
        if not pictures:
            return self.model.begin_of_image.new_zeros(0, 0, len(self.model.begin_of_image))
        pixels = torch.stack([picture for _, picture in pictures]).to(self.model.device)
        visual_tokens, features = self.model.visual_tokenizer(pixels)
        owners = [self.documents[row] for row, _ in pictures]
        self.seen.add(features, owners)
        self.drawn_from.add(features, owners)
        return visual_tokens

    def _lay_out(self, rows: Sequence[Sequence[Piece]]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Token ids [T] of each row, where visual tokens begin [n, 2], and what each token sees [B, T, 2]."""
        config = self.model.config
        all_ids, first_visual, all_visible = [], [], []
        for row, pieces in enumerate(rows):
            first, last = self.seen.range_of(self.documents[row])
            last -= sum(isinstance(piece, Tensor) for piece in pieces)
            ids: list[int] = []
            visible: list[tuple[int, int]] = []
            for piece in pieces:
                if isinstance(piece, Tensor):
                    last += 1
                    first_visual.append((row, len(ids)))
                    piece = [config.image_token_id] * config.vision.num_visual_tokens
                ids += piece
                visible += [(first, last)] * len(piece)
            all_ids.append(torch.tensor(ids, dtype=torch.int64))
            all_visible.append(torch.tensor(visible, dtype=torch.int64).view(-1, 2))
        return all_ids, torch.tensor(first_visual, dtype=torch.int64).view(-1, 2), pad_sequence(all_visible, True)

    def draw(self, rows: Sequence[int], seeds: Sequence[int], denoising: Denoising) -> Iterator[Step]:
        """Draw the image that each of these rows asks for; its `<BoI>` has been read, itself it has not.

        Args:
            rows: M of the B rows.
            seeds: one for each picture.
            denoising: how.
        """
        decoder = self.model.image_decoder
        hidden = torch.cat(self.hidden, dim=1)
        contexts = [hidden[row, self.exists[row]].flip(0) for row in rows]  # nearest first
        lengths = torch.tensor([len(context) for context in contexts], device=hidden.device)
        context = pad_sequence(contexts, batch_first=True)  # [M, K, C]
        exists = torch.arange(context.shape[1], device=hidden.device) < lengths.unsqueeze(1)
        values = self.drawn_from.values()
        ranges = [self.drawn_from.range_of(self.documents[row]) for row in rows]
        if decoder.config.context_images == "previous":
            ranges = [(max(last - 1, first), last) for first, last in ranges]
        return decoder.sample_steps(
            decoder.condition(context, exists),
            values=values,
            visible=torch.tensor(ranges, device=hidden.device),
            seeds=seeds,
            denoising=denoising,
        )

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows in this order: to leave out documents that are done, or to reorder beams.

        A row may be taken more than once; copies share their document's images and read no further ones.
        """
        place = torch.tensor(rows, device=self.model.device)
        self.cache.batch_select_indices(place)
        self.documents = [self.documents[row] for row in rows]
        self.lengths = [self.lengths[row] for row in rows]
        self.hidden = [hidden[place] for hidden in self.hidden]
        self.exists = self.exists[place]
        self.logits = None if self.logits is None else self.logits[place]

    def copied(self, rows: Sequence[int]) -> Reading:
        """A reading of these rows that goes on independently; see `select`."""
        other = copy.copy(self)
        other.cache = copy.deepcopy(self.cache)
        other.hidden = list(self.hidden)
        other.select(rows)
        return other
