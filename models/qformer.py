"""The Q-Former as a resampler: many inputs to a fixed number of tokens (BLIP-2, arXiv:2301.12597, section 3.1). The
released weights have it in place of the paper's Perceiver resampler.

Letters: N items, S inputs each, K learned queries, C channels inside, H heads, D channels a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.resampler import check_mask, split_heads

NORM_EPS = 1e-12
"""Of every LayerNorm in here (BERT's)."""


class QFormer(nn.Module):
    """`num_queries` learned queries in a BERT-like stack (post-norm): they attend to each other in every layer, and to
    the inputs in layers 0, n, 2n, ...

    Args:
        num_queries: tokens that come out for each item.
        dim: width inside.
        input_dim: width of the inputs.
        output_dim: width of the tokens that come out, after a projection; None: `dim`, without one.
        num_layers: layers.
        num_heads: attention heads; divides `dim`.
        cross_every: n, a cross-attention in every n-th layer, the first included.
        ffn_dim: hidden width of the feed-forward.
        qk_norm: normalise queries and keys head by head (arXiv:2302.05442, section 2.1).
        dropout: share of the queries, of attention weights and of each sub-layer's output that is set to 0 in training
            mode; none in evaluation mode.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, `cross_every` is less than 1, or `dropout` is not in [0, 1).
    """

    def __init__(
        self,
        *,
        num_queries: int,
        dim: int,
        input_dim: int,
        output_dim: int | None,
        num_layers: int,
        num_heads: int,
        cross_every: int = 2,
        ffn_dim: int = 3072,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim is {dim}, which {num_heads} heads cannot share evenly; expected a multiple.")
        if cross_every < 1:
            raise ValueError(f"cross_every is {cross_every}; expected 1 (every layer reads the inputs) or more.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected a share from 0 to below 1.")
        self.queries = nn.Parameter(torch.randn(num_queries, dim) * 0.02)
        self.query_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            QFormerLayer(dim, None if i % cross_every else input_dim, num_heads, ffn_dim, qk_norm, dropout)
            for i in range(num_layers)
        )
        self.output_proj = nn.Identity() if output_dim is None else nn.Linear(dim, output_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # BERT's
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Summarise each item.

        Args:
            inputs: [N, S, input_dim]. N and S may be 0.
            mask: [N, S] bool, True for inputs to use; None uses all of them.

        Returns:
            [N, num_queries, output_dim or dim], finite for an item whose mask is all False too: its cross-attention
            finds zeros.

        Raises:
            ValueError: `mask` is not bool or does not have the inputs' shape [N, S].
        """
        if mask is not None:
            check_mask(mask, inputs)
        latents = self.dropout(self.query_norm(self.queries).expand(inputs.shape[0], -1, -1))
        for layer in self.layers:
            latents = layer(latents, inputs, mask)
        return self.output_proj(latents)


class QFormerLayer(nn.Module):
    """Attention among the queries; from the queries to the inputs, unless `input_dim` is None; feed-forward."""

    def __init__(
        self, dim: int, input_dim: int | None, num_heads: int, ffn_dim: int, qk_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = PostNormAttention(dim, dim, num_heads, qk_norm, dropout)
        self.cross_attention = (
            None if input_dim is None else PostNormAttention(dim, input_dim, num_heads, qk_norm, dropout)
        )
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, dim), nn.Dropout(dropout))
        self.ffn_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, latents: Tensor, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """[N, K, C], [N, S, input_dim], bool [N, S] or None -> [N, K, C]."""
        latents = self.self_attention(latents, latents)
        if self.cross_attention is not None:
            latents = self.cross_attention(latents, inputs, mask)
        return self.ffn_norm(latents + self.ffn(latents))


class PostNormAttention(nn.Module):
    """`norm(x + attention(x, inputs))`."""

    def __init__(self, dim: int, input_dim: int, num_heads: int, qk_norm: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(input_dim, dim)
        self.value_proj = nn.Linear(input_dim, dim)
        self.query_head_norm = nn.LayerNorm(dim // num_heads, eps=NORM_EPS) if qk_norm else nn.Identity()
        self.key_head_norm = nn.LayerNorm(dim // num_heads, eps=NORM_EPS) if qk_norm else nn.Identity()
        self.output_proj = nn.Linear(dim, dim)
        self.output_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, latents: Tensor, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """[N, K, C], [N, S, input_dim], bool [N, S] or None -> [N, K, C]."""
        attended = F.scaled_dot_product_attention(
            self.query_head_norm(split_heads(self.query_proj(latents), self.num_heads)),
            self.key_head_norm(split_heads(self.key_proj(inputs), self.num_heads)),
            split_heads(self.value_proj(inputs), self.num_heads),
            attn_mask=None if mask is None else mask[:, None, None],
            dropout_p=self.dropout.p if self.training else 0.0,
        )  # [N, H, K, D]
        attended = rearrange(attended, "n h k d -> n k (h d)")
        return self.output_norm(latents + self.dropout(self.output_proj(attended)))
