"""What a batch of documents has read, by the exported components; for PyTorch: `models.generation.torch_state`.

Letters: B documents, T new tokens, n new images, M images to draw, C language-model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from export.components.sampled import arguments_of
from export.runtime.exported_drawings import ExportedDrawings, before_the_first_step
from export.runtime.memory import Memory
from export.runtime.token_cache import TokenCache, capacity_for, room_for
from models.denoising_options import Denoising
from models.generation.state import GenerationState, Piece


class ExportedGenerationState(GenerationState):
    """Reads with the components, into memory that no other state uses.

    Args:
        memory: where.
        num_documents: B at the beginning.
    """

    def __init__(self, memory: Memory, num_documents: int) -> None:
        super().__init__(memory.assets.config, num_documents)
        self.memory = memory
        self.runners = memory.runners
        for pool in memory.pools:
            pool.clear()
        self._cache = memory.cache(num_documents, capacity_for(self.runners["llm"], 1))
        self._cache.lengths.zero_()

    def record_sampling(self) -> None:
        super().record_sampling()
        if not self.memory.assets.sampling:
            self.records_sampling = False
            raise ValueError(self.memory.assets.cannot_record)

    @torch.no_grad()
    def read(self, rows: Sequence[Sequence[Piece]]) -> None:
        self.check_room(rows)
        visual_tokens = self._encode(rows)
        ids, first_visual, visible = self.lay_out(rows, self.memory.seen.range_of)
        counts = [len(row) for row in ids]
        self._make_room(room_for(self.runners["llm"], self.lengths, counts))
        if max(counts) == 1 and not len(first_visual):
            self._cache.add_one([int(row[0]) if len(row) else None for row in ids], visible)
            self._note_sampling(counts, visible)
        else:
            self._read_chunks(self._embed(ids, visual_tokens, first_visual), counts, visible)
        self.lengths = [before + count for before, count in zip(self.lengths, counts, strict=True)]
        self.logits = self._cache.logits.clone()

    def _encode(self, rows: Sequence[Sequence[Piece]]) -> Tensor | None:
        """Visual tokens [n, num_visual_tokens, C] of all new images; their features go into the pools."""
        images = self.new_images(rows)
        if images is None:
            return None
        found = self.runners["image_tokenizer"](pixel_values=images.pixels)
        is_shared = len(images.pixels) < len(images.which)
        features, visual_tokens = (
            found[name][images.which] if is_shared else found[name] for name in ("ms_features", "visual_tokens")
        )
        for pool in self.memory.pools:
            pool.add(features, images.owners)
        return visual_tokens

    def _embed(self, ids: Sequence[Tensor], visual_tokens: Tensor | None, first_visual: Tensor) -> Tensor:
        """[B, T, C] of text and images."""
        table = self.memory.assets.embedding
        embeddings = table[pad_sequence(list(ids), True, self.config.pad_token_id).to(table.device)]
        if visual_tokens is not None:
            num = visual_tokens.shape[1]
            for (row, column), tokens in zip(first_visual.tolist(), visual_tokens, strict=True):
                embeddings[row, column : column + num] = tokens
        return embeddings

    def _read_chunks(self, embeddings: Tensor, counts: Sequence[int], visible: Tensor) -> None:
        """As many tokens at a time as the language model takes."""
        longest = embeddings.shape[1]
        size = self.runners["llm"].most("tokens") or longest
        for start in range(0, longest, size):
            read = [min(count, start) for count in counts]
            here = [min(count - done, size) for count, done in zip(counts, read, strict=True)]
            before = [length + done for length, done in zip(self.lengths, read, strict=True)]
            chunk = slice(start, start + size)
            self._cache.add(embeddings[:, chunk], before, here, visible[:, chunk])
            self._note_sampling(here, visible[:, chunk])

    def _note_sampling(self, counts: Sequence[int], visible: Tensor) -> None:
        """Keep what the last of the tokens that each row has just read asked of the op."""
        if not self.records_sampling:
            return
        rows = torch.arange(len(counts))
        last = torch.tensor([max(count - 1, 0) for count in counts])
        asked = arguments_of(
            self._cache.asked,
            self.memory.assets.sampling,
            "llm",
            visible[rows, last].unsqueeze(1),
            self.config.language_model.mmfs,
            lambda queries: queries[rows.to(queries.device), last.to(queries.device)].unsqueeze(1),  # a copy
        )
        self._note_queries(asked, counts)

    def _make_room(self, num_tokens: int) -> None:
        """A larger cache where this one is too small."""
        capacity = capacity_for(self.runners["llm"], num_tokens)
        if capacity > self._cache.capacity:
            num_rows = len(self.documents)
            larger = self.memory.cache(num_rows, capacity)
            larger.take(self._cache, range(num_rows))
            self._cache = larger

    @torch.no_grad()
    def begin_drawing(self, rows: Sequence[int], seeds: Sequence[int], denoising: Denoising) -> ExportedDrawings:
        self.memory.assets.schedule.timesteps(denoising.num_inference_steps)  # so many are possible
        contexts = []
        for row in rows:
            length = self.lengths[row]
            hidden = self._cache.hidden[row : row + 1, :length]
            contexts.append(
                self.runners["context_resampler"](context_hidden=hidden, context_length=torch.tensor([length]))
            )
        halves = {name: torch.stack([context[name] for context in contexts], dim=1) for name in contexts[0]}
        negative, conditional = ({name: half[place] for name, half in halves.items()} for place in range(2))
        owners = [self.documents[row] for row in rows]
        latent_shape = [int(size) for size in self.runners["unet_mmfs"].inputs["sample"].shape[1:]]
        images = before_the_first_step(owners, negative, conditional, seeds, denoising, latent_shape)
        return ExportedDrawings(self.memory, images, records=self.records_sampling)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self.runners["vae_decoder"](latents=latents)["image"].float()

    @torch.no_grad()
    def log_probabilities(self, answers: Sequence[list[int]]) -> list[float]:
        # The language model's graph gives the logits behind one token of a call, so answers are read token by token,
        # beside a row that stays as it is.
        self.select([0] * (1 + len(answers)))
        self.check_room([[], *([ids] for ids in answers)])
        sums = [0.0] * len(answers)
        for place in range(max(map(len, answers))):
            assert self.logits is not None, "a document starts with <s>"
            likely = self.logits[1:].log_softmax(-1).cpu()
            for row, ids in enumerate(answers):
                if place < len(ids):
                    sums[row] += float(likely[row, ids[place]])
            if any(rest := [ids[place:-1][:1] for ids in answers]):
                self.read([[], *([token] for token in rest)])
        self.select([0])
        return sums

    def select(self, rows: Sequence[int]) -> None:
        capacity = capacity_for(self.runners["llm"], max((self.lengths[row] for row in rows), default=0))
        self._take(self, rows, self.memory.cache(len(rows), capacity))
        for pool in self.memory.pools:
            pool.keep(set(self.documents))

    def _take(self, other: ExportedGenerationState, rows: Sequence[int], cache: TokenCache) -> None:
        """Hold a copy of these rows of a state, in this cache."""
        cache.take(other._cache, rows)
        self._cache = cache
        self._hold(other, rows)
        self.logits = None if other.logits is None else cache.logits.clone()

    def copied(self, rows: Sequence[int]) -> ExportedGenerationState:
        memory = self.memory.with_copies({self.documents[row] for row in rows})
        length = max((self.lengths[row] for row in rows), default=0)
        other = copy(self)
        other.memory = memory
        # No longer than its tokens: it may be kept for long, and gets one for more tokens when it reads them.
        cache = TokenCache(self.runners["llm"], memory.assets.embedding, memory.seen, len(rows), length)
        other._take(self, rows, cache)
        return other

    def crop(self, row: int, num_tokens: int, num_images: int) -> None:
        self._crop(row, num_tokens)
        self._cache.lengths[row] = num_tokens
        self._cache.logits[row] = torch.nan
        for pool in self.memory.pools:
            pool.crop(self.documents[row], num_images)

    def can_join(self, other: GenerationState) -> bool:
        assert isinstance(other, ExportedGenerationState), "both are of one model"
        return all(own.can_join(its) for own, its in zip(self.memory.pools, other.memory.pools, strict=True))

    def join(self, other: GenerationState) -> None:
        assert isinstance(other, ExportedGenerationState), "both are of one model"
        shift, num_rows = self.check_joining(other), len(self.documents)
        lengths = self.lengths + other.lengths
        cache = self.memory.cache(len(lengths), capacity_for(self.runners["llm"], max(lengths, default=0)))
        for own, its in zip(self.memory.pools, other.memory.pools, strict=True):
            own.join(its, shift)
        cache.take(self._cache, range(num_rows))
        cache.take(other._cache, range(len(other.documents)), num_rows)
        self._cache = cache
        self._append(other, shift)
        self.logits = cache.logits.clone()

    @property
    def num_bytes(self) -> int:
        return self._cache.num_bytes + sum(pool.num_bytes for pool in self.memory.pools)
