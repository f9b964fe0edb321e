"""What a batch of documents has read so far, kept so that nothing is computed twice.

Letters: B documents, T new tokens, K tokens so far (a document that had nothing to read has gaps), C language-model
width, N images of the bank, S pyramid pixels, F feature width, M images to draw.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from models.denoising import Step
from models.denoising_options import Denoising
from models.folded_mmfs import FoldedMMFS
from models.generation.image_bank import ImageBank
from models.generation.state import GenerationState, Piece
from models.network import Network


class TorchGenerationState(GenerationState):
    """Keys and values of the language model, values of MMFS and hidden states of some documents.

    Args:
        model: its MMFS layers are taken as they are now; later changes of their weights have no effect.
        num_documents: B at the beginning.
    """

    def __init__(self, model: Network, num_documents: int = 1) -> None:
        super().__init__(model.config, num_documents)
        self.model = model
        self.cache = DynamicCache()
        self.folded: Sequence[FoldedMMFS | None] | None = model.language_model.fold()
        self.hidden: list[Tensor] = []  # [B, T, C] each, K together
        self.exists = torch.zeros(num_documents, 0, dtype=torch.bool, device=model.device)  # [B, K], False in gaps
        num_pixels = sum(h * w for h, w in model.visual_tokenizer.spatial_shapes)
        nothing = model.begin_of_image.new_zeros(0, num_pixels, model.visual_tokenizer.dim)
        self.seen = ImageBank(model.language_model.project_values, nothing)
        self.drawn_from = ImageBank(model.image_decoder.unet.project_values, nothing)

    def read(self, rows: Sequence[Sequence[Piece]]) -> Tensor:
        """As `GenerationState.read`.

        Returns:
            The new hidden states [B, T, C]; the last ones of a row that read fewer than T tokens are undefined.
        """
        self.check_room(rows)
        device = self.model.device
        visual_tokens = self._encode(rows)
        ids, first_visual, visible = self.lay_out(rows, self.seen.range_of)
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
            folded=self.folded,
        )
        self.hidden.append(hidden)
        self.lengths = [before + len(row) for before, row in zip(self.lengths, ids, strict=True)]
        last = hidden[torch.arange(len(rows), device=device), (lengths - 1).clamp(min=0)]  # [B, C]
        logits = self.model.language_model.logits(last).float()
        self.logits = logits if self.logits is None else torch.where((lengths > 0)[:, None], logits, self.logits)
        return hidden

    def _encode(self, rows: Sequence[Sequence[Piece]]) -> Tensor:
        """Visual tokens [n, num_visual_tokens, C] of all new images; their features go into the banks."""
        images = self.new_images(rows)
        if images is None:
            return self.model.begin_of_image.new_zeros(0, 0, len(self.model.begin_of_image))
        visual_tokens, features = self.model.visual_tokenizer(images.pixels.to(self.model.device))
        for bank in (self.seen, self.drawn_from):
            bank.add(features, images.owners, images.which)
        return visual_tokens[images.which]

    def draw(self, rows: Sequence[int], seeds: Sequence[int], denoising: Denoising) -> Iterator[Step]:
        decoder = self.model.image_decoder
        hidden = torch.cat(self.hidden, dim=1)
        contexts = [hidden[row, self.exists[row]].flip(0) for row in rows]  # nearest first
        lengths = torch.tensor([len(context) for context in contexts], device=hidden.device)
        context = pad_sequence(contexts, batch_first=True)  # [M, K, C]
        exists = torch.arange(context.shape[1], device=hidden.device) < lengths.unsqueeze(1)
        values = self.drawn_from.values()
        ranges = self.image_ranges(rows, self.drawn_from.range_of)
        return decoder.sample_steps(
            decoder.condition(context, exists),
            values=values,
            visible=torch.tensor(ranges, device=hidden.device),
            seeds=seeds,
            denoising=denoising,
        )

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.image_decoder.decode(latents)

    def select(self, rows: Sequence[int]) -> None:
        place = torch.tensor(rows, device=self.model.device)
        self.cache.batch_select_indices(place)
        self.documents = [self.documents[row] for row in rows]
        self.lengths = [self.lengths[row] for row in rows]
        self.hidden = [hidden[place] for hidden in self.hidden]
        self.exists = self.exists[place]
        self.logits = None if self.logits is None else self.logits[place]

    def log_probabilities(self, answers: Sequence[list[int]]) -> list[float]:
        assert self.logits is not None, "a document starts with <s>"
        hidden = self.copied([0] * len(answers)).read([[ids] for ids in answers])
        after = self.model.language_model.logits(hidden[:, :-1]).float()  # the last token predicts nothing asked for
        logits = torch.cat([self.logits.expand(len(answers), 1, -1), after], dim=1)  # [B, T, vocabulary]
        each = [
            row[: len(ids)].log_softmax(-1).gather(1, torch.tensor(ids, device=row.device)[:, None]).sum()
            for row, ids in zip(logits, answers, strict=True)
        ]
        return torch.stack(each).tolist()

    def copied(self, rows: Sequence[int]) -> TorchGenerationState:
        """An independent copy with these rows; see `select`."""
        other = copy.copy(self)
        other.cache = copy.deepcopy(self.cache)
        other.hidden = list(self.hidden)
        other.select(rows)
        return other
