"""`llm`: one call of the language model.

Its key-value cache is read-only: `past_key_{i}` holds `write_indices[b]` valid rows of any capacity (0 included), later
rows are ignored but must be finite; the new rows come out and the runtime stores them behind the valid ones. The mask
is built in the graph from `write_indices` and is explicit; prefill, chunks and single tokens use one file.
`export/graph/kv_cache.py` makes graphs of it that write their cache in place.

Letters: B sequences, T new tokens, K rows of the cache, N images of the bank, C language-model width, S' pixels of the
levels that are sampled, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.components.cached_attention import AttentionAsOneNode, PastRows
from export.components.check_inputs import Case, CheckInputs
from export.components.component import FLOAT, INT, Component, Port
from export.components.mmfs_values import llm_values
from export.components.profiles import Limits, Profile, ranges_of, usual_ranges
from export.components.spec import ComponentSpec
from models.sampling_recorder import SamplingRecorder
from models.sequence import token_visible

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved

GARBAGE = 50.0
"""Spread of the numbers in cache rows that are not valid: large, so that any influence would show."""


class LanguageModelWithPast(nn.Module):
    """One call of the language model: T new tokens behind `write_indices` cached ones."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.language_model = model.language_model
        self.num_past = 2 * len(self.language_model.decoder.layers)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        write_indices: Tensor,
        last_token_ids: Tensor,
        visible: Tensor,
        *past_and_values: Tensor,
        recorder: SamplingRecorder | None = None,
    ) -> tuple[Tensor, ...]:
        """The new tokens' states and cache rows, and the logits after one of them.

        Args:
            inputs_embeds: [B, T, C] of text and visual tokens.
            position_ids: [B, T] int64.
            write_indices: [B] int64, how many tokens of each sequence are cached.
            last_token_ids: [B, 1] int64, the new token whose logits are wanted.
            visible: [B, T, 2] int64, range of images of the bank that a token sees.
            past_and_values: past_key_0, past_value_0, ... [B, H, K, D], then mmfs_value_0, ... [N, S', H, D].
            recorder: gets what each synchronizer asks of the op. None: nobody.

        Returns:
            logits [B, 1, vocabulary], hidden_states [B, T, C], new_key_0, new_value_0, ... [B, H, T, D].
        """
        past, values = past_and_values[: self.num_past], past_and_values[self.num_past :]
        cache = PastRows(past)
        tracing = torch.compiler.is_exporting()
        with AttentionAsOneNode(cache, write_indices) if tracing else nullcontext():
            hidden = self.language_model(
                inputs_embeds,
                position_ids=position_ids,
                mask=cached_causal_mask(write_indices, capacity=past[0].shape[2], num_new=inputs_embeds.shape[1]),
                values=values,
                visible=visible,
                cache=cache,
                recorder=recorder,
            )
        rows = last_token_ids.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return self.language_model.logits(hidden.gather(1, rows)), hidden, *cache.new


def cached_causal_mask(write_indices: Tensor, *, capacity: int, num_new: int) -> Tensor:
    """Who attends to whom, [B, 1, T, K + T] bool: the valid rows of the cache, earlier new tokens, and oneself."""
    device = write_indices.device
    past = torch.arange(capacity, device=device) < write_indices[:, None, None, None]  # [B, 1, 1, K]
    new = torch.arange(num_new, device=device)
    causal = new <= new.unsqueeze(1)  # [T, T]
    batch = write_indices.shape[0]
    return torch.cat([past.expand(batch, 1, num_new, capacity), causal.expand(batch, 1, num_new, num_new)], dim=-1)


class LanguageModelWithoutMMFS(LanguageModelWithPast):
    """The same for a model without synchronizers, which takes no `visible` and no values."""

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        write_indices: Tensor,
        last_token_ids: Tensor,
        *past: Tensor,
        recorder: SamplingRecorder | None = None,
    ) -> tuple[Tensor, ...]:
        """As above, without `visible`, and nothing is recorded."""
        return super().forward(inputs_embeds, position_ids, write_indices, last_token_ids, position_ids, *past)


def llm(model: MMInterleaved) -> Component:
    """The component of a model."""
    language_model = model.language_model
    host, width = language_model.host.config, language_model.hidden_size
    head = getattr(host, "head_dim", None) or width // host.num_attention_heads
    rows = host.num_key_value_heads
    values = llm_values(model)
    past, new = {}, {}
    for i in range(len(language_model.decoder.layers)):
        for kind in ("key", "value"):
            past[f"past_{kind}_{i}"] = Port(FLOAT, ("batch", rows, "past", head), "cache")
            new[f"new_{kind}_{i}"] = Port(FLOAT, ("batch", rows, "tokens", head))
    return Component(
        SPEC.name,
        LanguageModelWithPast(model) if values else LanguageModelWithoutMMFS(model),
        inputs={
            "inputs_embeds": Port(FLOAT, ("batch", "tokens", width)),
            "position_ids": Port(INT, ("batch", "tokens")),
            "write_indices": Port(INT, ("batch",)),
            "last_token_ids": Port(INT, ("batch", 1)),
            **({"visible": Port(INT, ("batch", "tokens", 2))} if values else {}),
            **past,
            **values,
        },
        outputs={
            "logits": Port(FLOAT, ("batch", 1, language_model.vocabulary_size)),
            "hidden_states": Port(FLOAT, ("batch", "tokens", width)),
            **new,
        },
        num_synchronizers=len(language_model.synchronizers),
        num_cached_attentions=len(language_model.decoder.layers),
        writes_text=True,
    )


def _profiles(axes: Collection[str], limits: Limits) -> list[Profile]:
    """One for single tokens and one for many.

    With a cache of fixed size the graph holds Attention nodes: TensorRT-RTX 1.7 has kernels of half precision for
    them, but none for a number of tokens that is always one.
    """
    ranges = ranges_of(axes, usual_ranges(limits))
    most = 1 if "past" in ranges else 2
    return [Profile("decode", {**ranges, "tokens": (1, 1, most)}), Profile("prefill", ranges)]


def _cases(component: Component, given: CheckInputs) -> list[Case]:
    """The whole documents at once, their last tokens alone, a chunk in the middle, and text without any image."""
    model, batch, values = given.model, given.batch, given.outputs_of("mmfs_values_llm")
    visual_tokens = given.outputs_of("image_tokenizer")["visual_tokens"]
    embeddings = model.embed(batch.input_ids, visual_tokens, batch.image_positions)
    lengths = (batch.document_ids >= 0).sum(1)  # [B]
    rows, longest = batch.input_ids.shape
    visible = token_visible(batch)

    def inputs(columns: Tensor, past: dict[str, Tensor], start: Tensor, last: Tensor) -> dict[str, Tensor]:
        """New tokens are those at `columns` [r, T] of the first r rows."""
        row = torch.arange(len(columns)).unsqueeze(1)
        chosen = {
            "inputs_embeds": embeddings[row, columns],
            "position_ids": columns,
            "write_indices": start,
            "last_token_ids": last.unsqueeze(1),
            "visible": visible[row, columns],
            **past,
            **values,
        }
        return {name: chosen[name] for name in component.inputs}

    nothing_read = {name: _empty(component, name, batch=rows) for name in component.inputs if name.startswith("past_")}
    zeros = torch.zeros(rows, dtype=torch.int64)
    whole = inputs(batch.position_ids, nothing_read, zeros, lengths - 1)

    read = component.run(whole)
    garbage = torch.Generator().manual_seed(0)
    past = {}
    for name in nothing_read:
        kept = read[name.replace("past_", "new_")]
        valid = torch.arange(longest + 2) < (lengths - 1).unsqueeze(1)  # [B, K]; two rows of capacity to spare
        noise = torch.randn(*kept.shape[:2], longest + 2, kept.shape[3], generator=garbage) * GARBAGE
        past[name] = torch.where(valid[:, None, :, None], F.pad(kept, (0, 0, 0, 2)), noise)
    last_token = inputs((lengths - 1).unsqueeze(1), past, lengths - 1, zeros)

    start = int(lengths[0]) // 2
    chunk = torch.arange(start, int(lengths[0])).unsqueeze(0)
    first_row = {name: tensor[:1] for name, tensor in past.items()}
    middle = inputs(chunk, first_row, torch.tensor([start]), torch.tensor([chunk.shape[1] - 1]))

    words = batch.input_ids[:1, : int(lengths[0])]
    words = words[(words != model.config.image_token_id) & (words != model.config.begin_of_image_id)].unsqueeze(0)
    alone = {
        "inputs_embeds": model.language_model.embed(words),
        "position_ids": torch.arange(words.shape[1]).unsqueeze(0),
        "write_indices": zeros[:1],
        "last_token_ids": torch.tensor([[words.shape[1] - 1]]),
        "visible": torch.zeros(*words.shape, 2, dtype=torch.int64),
        **{name: _empty(component, name, batch=1) for name in nothing_read},
        **{name: tensor[:0] for name, tensor in values.items()},
    }
    return [
        Case(f"{rows} whole documents", whole),
        Case("their last tokens, from the cache", last_token),
        Case(f"{chunk.shape[1]} tokens behind {start} cached", middle),
        Case("words without an image", {name: alone[name] for name in component.inputs}),
    ]


def _empty(component: Component, name: str, *, batch: int) -> Tensor:
    """An input whose `past` axis has no rows."""
    sizes = {"batch": batch, "past": 0}
    port = component.inputs[name]
    return torch.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in port.shape], dtype=port.dtype)


SPEC = ComponentSpec(
    "llm",
    llm,
    _cases,
    profiles=_profiles,
    float32_ports=frozenset({"logits"}),
    takes_eight_bit_weights=True,
)
