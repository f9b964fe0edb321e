"""Attention by document: the same as under a mask of all pairs of tokens, and smaller."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from live_bytes import LiveBytes
from models import MMInterleaved
from models.document_attention import attend
from models.documents import Documents
from models.sequence import attention_mask, documents
from numerics import FLOAT32_ROUNDING, assert_equal_gradients
from rows import pack_rows

ROWS = [[["image", *range(9, 40), "draw", 11], [12, 13]], [[9, 10], ["image", 12, "draw"], [7]]]


def losses_and_gradients(model: MMInterleaved) -> tuple[float, dict[str, Tensor]]:
    model.train().zero_grad()
    loss = model(pack_rows(ROWS)).loss
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packing", ["document", "causal"])
def test_ranges_say_what_the_mask_says(packing: str) -> None:
    batch = pack_rows(ROWS)
    ends = documents(batch, packing).ends.tolist()  # type: ignore[arg-type]
    rows, length = batch.input_ids.shape
    found = torch.zeros(rows * length, rows * length, dtype=torch.bool)
    for first, last in pairwise(ends):
        found[first:last, first:last] = True
    expected = torch.block_diag(*attention_mask(batch, packing)[:, 0]).bool()  # type: ignore[arg-type]
    assert torch.equal(found.tril(), expected)
    assert documents(batch, packing).longest == max(torch.tensor(ends).diff().tolist())  # type: ignore[arg-type]


def test_losses_and_gradients_are_the_same(model: MMInterleaved) -> None:
    loss, gradients = losses_and_gradients(model)
    model.language_model.enable_document_attention()
    again, by_document = losses_and_gradients(model)
    assert again == pytest.approx(loss, rel=FLOAT32_ROUNDING)
    assert_equal_gradients(by_document, gradients)


@torch.no_grad()
def test_what_is_read_with_a_cache_stays(model: MMInterleaved) -> None:
    document, candidates = ["is it?", torch.rand(3, 32, 32)], ["yes", "no"]
    expected = [score.log_probability for score in model.score(document, candidates)]
    model.language_model.enable_document_attention()
    found = [score.log_probability for score in model.score(document, candidates)]
    assert found == pytest.approx(expected, rel=FLOAT32_ROUNDING)


def test_dropped_attention_is_refused(model: MMInterleaved) -> None:
    model.language_model.host.config.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"drops attention in training \(attention_dropout 0\.1\)"):
        model.language_model.enable_document_attention()


def attention_and_gradients(
    lengths: list[int], window: int | None, dtype: torch.dtype, *, dense: bool
) -> tuple[Tensor, ...]:
    """Of one row with documents of these lengths; 4 heads, 2 of keys and values."""
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    inputs = [torch.randn(1, heads, total, 8, generator=generator).to(dtype).requires_grad_() for heads in (4, 2, 2)]
    if dense:
        mask = torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool().tril()
        if window is not None:
            mask = mask.triu(1 - window)
        seen = F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    else:
        packed = Documents.of(lengths)
        seen, _ = attend(None, *inputs, None, scaling=0.3, sliding_window=window, documents=packed)
    seen.square().sum().backward()
    return (seen.detach(), *(x.grad for x in inputs if x.grad is not None))


@pytest.mark.parametrize("window", [None, 5, 40, 2000])
@pytest.mark.parametrize("lengths", [[7], [1, 40, 3], [1500, 33]])
def test_windows_and_shared_keys(lengths: list[int], window: int | None) -> None:
    expected = attention_and_gradients(lengths, window, torch.float64, dense=True)
    for found, exact in zip(
        attention_and_gradients(lengths, window, torch.float64, dense=False), expected, strict=True
    ):
        torch.testing.assert_close(found, exact)  # sums over 1,500 tokens, in float64


def test_memory_does_not_grow_with_the_square() -> None:
    peaks = []
    for factor in (1, 4):
        with LiveBytes() as live:
            attention_and_gradients([256] * factor, None, torch.float32, dense=False)
        peaks.append(live.peak)
    assert peaks[1] < 4.5 * peaks[0]
