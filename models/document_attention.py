"""Attention of packed rows document by document, without a mask of tokens times tokens.

Letters: B rows, T tokens a row, H heads, G heads of keys and values (a divisor of H), D channels a head, n documents of
all rows together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.documents import Documents

BY_DOCUMENT = "mmfs_by_document"
"""What transformers calls this attention."""

QUERY_CHUNK = 1024
"""Queries of a document that are computed at a time where a window limits their keys, without a kernel for windows."""


def enable_document_attention(host: Any) -> None:
    """From now on, a causal LM of transformers takes `Documents` in place of a mask, where it reads without a cache.

    What is computed is the same: each token attends to itself and to earlier ones of its document. On CUDA, half types
    go to FlashAttention for ranges (`torch.nn.attention.varlen`); all else is a call of its own for each document.

    Raises:
        ValueError: the language model drops attention in training, which this attention does not.
    """
    if dropout := getattr(host.config, "attention_dropout", 0):
        raise ValueError(
            f"The language model drops attention in training (attention_dropout {dropout}), which attention by "
            "document does not compute. Use a mask of all pairs of tokens."
        )
    AttentionInterface.register(BY_DOCUMENT, attend)
    host.set_attn_implementation(BY_DOCUMENT)


def attends_by_document(host: Any) -> bool:
    """Whether a causal LM of transformers takes `Documents`."""
    return host.config._attn_implementation == BY_DOCUMENT


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    documents: Documents | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The interface of transformers: [B, H, T, D] and twice [B, G, T, D] -> [B, T, H, D].

    With a mask instead of documents, it is PyTorch's attention under that mask.
    """
    if documents is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    if torch.is_autocast_enabled(query.device.type):  # as for PyTorch's own attention
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    rows, tokens = len(query), query.shape[2]
    flat_query, flat_key, flat_value = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        ends, longest = documents.ends, documents.longest
        seen = varlen_attn(
            flat_query,
            flat_key,
            flat_value,
            ends,
            ends,
            longest,
            longest,
            scale=scale,
            window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        assert isinstance(seen, Tensor), "no sums of exponentials were asked for"
    else:
        seen = _by_document(flat_query, flat_key, flat_value, documents, sliding_window or 0, scale)
    return seen.unflatten(0, (rows, tokens)), None


@torch.compiler.disable  # it would unroll the documents, into another graph for each batch
def _by_document(query: Tensor, key: Tensor, value: Tensor, documents: Documents, window: int, scale: float) -> Tensor:
    """[B * T, H, D] and twice [B * T, G, D] -> [B * T, H, D]; window 0 is none."""
    lengths = documents.lengths
    each = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
    return torch.cat([_attended(*document, window, scale) for document in each])


def _attended(query: Tensor, key: Tensor, value: Tensor, window: int, scale: float) -> Tensor:
    """Of one document of t tokens: [t, H, D], twice [t, G, D] -> [t, H, D]."""
    each = query.shape[1] // key.shape[1]
    query, key, value = (
        states.transpose(0, 1).unsqueeze(0)
        for states in (query, key.repeat_interleave(each, 1), value.repeat_interleave(each, 1))
    )  # [1, H, t, D]
    length = query.shape[2]
    if not 0 < window < length:
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        return seen[0].transpose(0, 1)
    pieces = []
    for first in range(0, length, QUERY_CHUNK):
        last, begin = min(first + QUERY_CHUNK, length), max(0, first - window + 1)
        here, there = (torch.arange(*ends, device=query.device) for ends in ((first, last), (begin, last)))
        back = here.unsqueeze(1) - there
        keys = slice(begin, last)
        mask = (back >= 0) & (back < window)
        pieces.append(
            F.scaled_dot_product_attention(
                query[:, :, first:last], key[:, :, keys], value[:, :, keys], attn_mask=mask, scale=scale
            )
        )
    return torch.cat(pieces, 2)[0].transpose(0, 1)
