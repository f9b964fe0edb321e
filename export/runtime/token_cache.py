"""Keys, values and states of the tokens that a batch of documents has read, at fixed addresses.

Letters: B documents, K tokens that fit, T new tokens, H heads, D channels a head, C language-model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from export.components.sampled import of_sampling
from export.runtime.recorded import Recorded
from export.runtime.runner import ComponentRunner, Tensors
from export.runtime.value_pool import ValuePool

LEAST_CAPACITY = 64


class TokenCache:
    """The past of B documents, and the step that adds one token to each.

    Row b holds `lengths[b]` tokens from the left; the rows after them are finite and have no meaning. A language model
    that writes in place writes its new rows there, those of padding too: it needs `room_for` them.

    Args:
        llm: the language model.
        embedding: [vocabulary, C], on the language model's device.
        pool: the images that its tokens see.
        num_rows: B.
        capacity: K.
    """

    def __init__(self, llm: ComponentRunner, embedding: Tensor, pool: ValuePool, num_rows: int, capacity: int) -> None:
        self.llm, self.embedding, self.pool = llm, embedding, pool
        self.in_place = bool(llm.aliases)
        self.capacity = capacity
        device = llm.device

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.past = {
            name: zeros(num_rows, port.shape[1], capacity, port.shape[3], dtype=port.dtype)  # type: ignore[arg-type]
            for name, port in llm.inputs.items()
            if name.startswith("past_")
        }
        hidden, logits = llm.outputs["hidden_states"], llm.outputs["logits"]
        self.hidden = zeros(num_rows, capacity, hidden.shape[2], dtype=hidden.dtype)  # type: ignore[arg-type]
        self.logits = zeros(num_rows, logits.shape[2], dtype=torch.float32)  # type: ignore[arg-type]
        self.lengths = zeros(num_rows)
        # What the recorded step reads.
        self.ids, self.counts, self.visible = zeros(num_rows), zeros(num_rows), zeros(num_rows, 1, 2)
        self._rows = torch.arange(num_rows, device=device)
        self._recorded_llm = llm.for_recording()
        self.step = Recorded(self._one_token, [self.lengths, self.logits], device)
        self._num_moves = pool.num_moves
        self.asked: Tensors = {}
        """What MMFS asked of the op in the last call, if the language model says so, by output; on a GPU, the next
        token's is written over it."""

    def take(self, other: TokenCache, rows: Sequence[int], first: int = 0) -> None:
        """Hold these rows of another cache, or of this one, in this order, from row `first` on; they fit."""
        place = torch.tensor(rows, dtype=torch.int64, device=self.lengths.device)
        length, here = min(self.capacity, other.capacity), slice(first, first + len(rows))
        for name, past in self.past.items():
            past[here, :, :length] = other.past[name][:, :, :length].index_select(0, place)
        self.hidden[here, :length] = other.hidden[:, :length].index_select(0, place)
        self.logits[here] = other.logits.index_select(0, place)
        self.lengths[here] = other.lengths.index_select(0, place)

    @property
    def num_bytes(self) -> int:
        """Of what is kept of the tokens."""
        return sum(tensor.nbytes for tensor in (*self.past.values(), self.hidden, self.logits))

    def add(self, embeddings: Tensor, before: Sequence[int], counts: Sequence[int], visible: Tensor) -> None:
        """Read some tokens in each row, perhaps none.

        Args:
            embeddings: [B, T, C]; the tokens of row b come first.
            before: how many tokens each row holds.
            counts: how many it reads; `room_for` T new tokens is there.
            visible: [B, T, 2] int64, slots of the pool.
        """
        num_new = torch.tensor(counts, device=self.lengths.device)
        last = (num_new - 1).clamp(min=0).unsqueeze(1)
        found = self._run(self.llm, embeddings, last, visible, self._filled_past(max(before)))
        for row, (start, count) in enumerate(zip(before, counts, strict=True)):
            if not self.in_place:
                for name, past in self.past.items():
                    past[row, :, start : start + count] = found[_new(name)][row, :, :count]
            self.hidden[row, start : start + count] = found["hidden_states"][row, :count]
        self.logits.copy_(torch.where(num_new.unsqueeze(1) > 0, found["logits"][:, 0].float(), self.logits))
        self.lengths += num_new

    def add_one(self, ids: Sequence[int | None], visible: Tensor) -> None:
        """Read a token, or none, in each row: `add` with the step that is recorded on a GPU.

        Args:
            ids: B tokens; None: this row reads nothing.
            visible: [B, 1, 2] int64.
        """
        self.ids.copy_(torch.tensor([token or 0 for token in ids]))
        self.counts.copy_(torch.tensor([token is not None for token in ids]))
        self.visible.copy_(visible)
        if self._num_moves != self.pool.num_moves:
            self.step.forget()
            self._num_moves = self.pool.num_moves
        self.step()

    def _one_token(self) -> None:
        embeddings, last = self.embedding[self.ids].unsqueeze(1), torch.zeros_like(self.ids).unsqueeze(1)
        found = self._run(self._recorded_llm, embeddings, last, self.visible, self.past)
        reads = self.counts > 0
        place = self.lengths.clamp(max=self.capacity - 1)  # of a full row that reads nothing
        if not self.in_place:
            for name, past in self.past.items():
                kept = past[self._rows, :, place]  # [B, H, D]
                past[self._rows, :, place] = torch.where(reads[:, None, None], found[_new(name)][:, :, 0], kept)
        kept = self.hidden[self._rows, place]
        self.hidden[self._rows, place] = torch.where(reads[:, None], found["hidden_states"][:, 0], kept)
        self.logits.copy_(torch.where(reads[:, None], found["logits"][:, 0].float(), self.logits))
        self.lengths += self.counts

    def _filled_past(self, num_filled: int) -> Tensors:
        """The past without the rows in which nothing stands yet: each new token would compute with them, only to be
        masked. At least one row, because an engine takes no empty cache. What is written in place is whole."""
        if self.in_place:
            return self.past
        return {name: past[:, :, : max(num_filled, 1)] for name, past in self.past.items()}

    def _run(
        self, llm: ComponentRunner, embeddings: Tensor, last: Tensor, visible: Tensor, past: Tensors
    ) -> dict[str, Tensor]:
        num_new = embeddings.shape[1]
        new = torch.arange(num_new, device=self.lengths.device)
        # The runs before a recording also increase the lengths, which must not exceed the cache.
        first_new = self.lengths.clamp(max=self.capacity - num_new) if self.in_place else self.lengths
        found = llm(
            inputs_embeds=embeddings,
            position_ids=self.lengths.unsqueeze(1) + new,
            write_indices=first_new,
            last_token_ids=last,
            visible=visible,
            **past,
            **self.pool.banks,
        )
        self.asked = of_sampling(found)
        return found


def room_for(llm: ComponentRunner, before: Sequence[int], counts: Sequence[int]) -> int:
    """How many rows a cache needs to read some tokens in each of its rows.

    A language model that writes in place writes as many rows in each sequence, padding included.
    """
    added = [max(counts)] * len(before) if llm.aliases else counts
    return max(length + count for length, count in zip(before, added, strict=True))


def capacity_for(llm: ComponentRunner, num_rows: int) -> int:
    """A capacity that suffices and rarely has to grow: powers of two, up to the most that the language model takes.

    Raises:
        ValueError: more rows than that.
    """
    rows = llm.inputs["past_key_0"].shape[2]
    fixed = rows if isinstance(rows, int) else None
    most = fixed or llm.most("past")
    if most is not None and num_rows > most:
        raise ValueError(
            f"The documents need {num_rows} rows of the key-value cache, and the engine of the language model keeps "
            f"{most}. Build it with a larger --max-past, or give it less."
        )
    if fixed:
        return fixed
    capacity = LEAST_CAPACITY
    while capacity < num_rows:
        capacity *= 2
    return capacity if most is None else min(capacity, most)


def _new(past: str) -> str:
    """The output that updates an input."""
    return past.replace("past_", "new_")
