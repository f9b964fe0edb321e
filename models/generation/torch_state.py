"""What a batch of documents has read so far, kept so that nothing is computed twice.

Letters: B documents, T new tokens, K tokens of the longest document, C language-model width, N images of the bank, S
pyramid pixels, F feature width, M images to draw.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.denoising_options import Denoising
from models.folded_mmfs import FoldedMMFS
from models.generation.image_bank import ImageBank
from models.generation.state import GenerationState, Piece, drawn_from
from models.generation.token_rows import LEAST_ROOM, TokenCache
from models.image_decoders.torch_drawings import TorchDrawings
from models.network import Network
from models.sampling_recorder import SamplingRecorder


class TorchGenerationState(GenerationState):
    """Keys and values of the language model, values of MMFS and hidden states of some documents.

    Args:
        model: its MMFS layers are taken as they are now; later changes of their weights have no effect.
        num_documents: B at the beginning.
    """

    def __init__(self, model: Network, num_documents: int = 1) -> None:
        super().__init__(model.config, num_documents)
        self.model = model
        self.cache = TokenCache()
        self.folded: Sequence[FoldedMMFS | None] | None = model.language_model.fold()
        num_pixels = sum(h * w for h, w in model.visual_tokenizer.spatial_shapes)
        nothing = model.begin_of_image.new_zeros(0, num_pixels, model.visual_tokenizer.dim)
        self.seen = ImageBank(model.language_model.project_values, nothing)
        self.drawn_from = ImageBank(model.image_decoder.unet.project_values, nothing)
        self._recorder = SamplingRecorder()

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
        places = self.cache.begin(self.lengths, input_ids.shape[1], device)
        last = (torch.arange(len(rows), device=device), (lengths - 1).clamp(min=0))  # new token of each row
        recorder = None
        if self.records_sampling:
            one_each = input_ids.shape[1] == 1
            recorder = self._recorder.begin(None if one_each else lambda queries: queries[last].unsqueeze(1))
        hidden = self.model.language_model(
            self.model.embed(input_ids, visual_tokens, first_visual.to(device)),
            position_ids=places.columns,
            mask=places.mask,
            values=self.seen.values(),
            visible=visible.to(device),
            cache=self.cache,
            folded=self.folded,
            recorder=recorder,
        )
        self.cache.hidden.write(hidden, places)
        if recorder is not None:
            self._note_queries(recorder.take(), list(map(len, ids)))
        self.lengths = [before + len(row) for before, row in zip(self.lengths, ids, strict=True)]
        logits = self.model.language_model.logits(hidden[last]).float()  # [B, vocabulary]
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

    @torch.no_grad()
    def begin_drawing(self, rows: Sequence[int], seeds: Sequence[int], denoising: Denoising) -> TorchDrawings:
        decoder = self.model.image_decoder
        contexts = [self.states(row).flip(0) for row in rows]  # nearest first
        lengths = torch.tensor([len(context) for context in contexts], device=self.model.device)
        context = pad_sequence(contexts, batch_first=True)  # [M, K, C]
        exists = torch.arange(context.shape[1], device=self.model.device) < lengths.unsqueeze(1)
        values = self.drawn_from.values()
        ranges = [drawn_from(self.config, self.drawn_from.range_of(self.documents[row])) for row in rows]
        return decoder.begin_drawing(
            decoder.condition(context, exists),
            values=values,
            visible=torch.tensor(ranges, device=self.model.device),
            seeds=seeds,
            denoising=denoising,
            recorder=SamplingRecorder() if self.records_sampling else None,
        )

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.image_decoder.decode(latents)

    def states(self, row: int) -> Tensor:
        """[n, C], the hidden states of the n tokens that a row has read."""
        return self.cache.hidden.of(row, self.lengths[row])

    def select(self, rows: Sequence[int]) -> None:
        self._take(self, rows, LEAST_ROOM)

    def _take(self, other: TorchGenerationState, rows: Sequence[int], room: int = 0) -> None:
        """Hold a copy of these rows of a state, each with room for as many more tokens."""
        place = torch.tensor(rows, dtype=torch.int64, device=self.model.device)
        self._hold(other, rows)
        self.cache = other.cache.select(place, max(self.lengths, default=0), room)
        self.logits = None if other.logits is None else other.logits[place]
        owners = set(self.documents)
        self.seen, self.drawn_from = other.seen.of(owners), other.drawn_from.of(owners)

    def crop(self, row: int, num_tokens: int, num_images: int) -> None:
        self._crop(row, num_tokens)
        self.cache = self.cache.without_unused(max(self.lengths))
        for bank in (self.seen, self.drawn_from):
            bank.crop(self.documents[row], num_images)

    def join(self, other: GenerationState) -> None:
        assert isinstance(other, TorchGenerationState), "both are of one model"
        shift = self.check_joining(other)
        self._append(other, shift)
        self.cache = TokenCache.joined([self.cache, other.cache], max(self.lengths, default=0))
        logits = [one.logits for one in (self, other) if one.logits is not None]
        self.logits = torch.cat(logits) if logits else None
        self.seen.join(other.seen, shift)
        self.drawn_from.join(other.drawn_from, shift)

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
        other = copy.copy(self)
        other._take(self, rows)
        other._recorder = SamplingRecorder()
        return other

    @property
    def num_bytes(self) -> int:
        logits = 0 if self.logits is None else self.logits.nbytes
        return self.cache.num_bytes + logits + self.seen.num_bytes + self.drawn_from.num_bytes
