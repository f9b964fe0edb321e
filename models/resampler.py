"""The Perceiver resampler: many inputs to a fixed number of tokens (Flamingo, arXiv:2204.14198, section 2.1 and A.1.1).

Letters: N items, S inputs each, K learned queries, C channels inside, H heads, D channels a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

FFN_RATIO = 4
"""Width of the feed-forward's hidden layer, in multiples of `dim` (Flamingo)."""

SHARPNESS = 2.0
"""Initial gain of the query and of the key projection: logits of about its square."""


class Resampler(nn.Module):
    """`num_queries` learned queries that read the inputs in `num_layers` pre-norm blocks of cross-attention and
    feed-forward.

    It departs from Flamingo in two things, both of which matter when it learns from random weights. The keys of a block
    are the inputs and a learned null, not the queries themselves, because a query would mostly attend to itself. And
    its initial weights pass the inputs on: queries of unit size, sharp attention, values at full size, a feed-forward
    that adds nothing. With the usual small weights the output is nearly the same for every item, and the layers that
    read it learn to ignore it (measured in bench/LOG.md). The null keeps items without any usable input finite.

    Args:
        num_queries: tokens that come out for each item.
        dim: width inside.
        input_dim: width of the inputs.
        output_dim: width of the tokens that come out.
        num_layers: blocks.
        num_heads: attention heads; divides `dim`.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self, *, num_queries: int, dim: int, input_dim: int, output_dim: int, num_layers: int, num_heads: int
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim is {dim}, which {num_heads} heads cannot share evenly; expected a multiple.")
        self.queries = nn.Parameter(torch.randn(num_queries, dim))
        self.input_proj = nn.Linear(input_dim, dim)
        self.layers = nn.ModuleList(ResamplerLayer(dim, num_heads) for _ in range(num_layers))
        self.output_norm = nn.LayerNorm(dim)
        self.output_proj = nn.Linear(dim, output_dim)
        nn.init.orthogonal_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Summarise each item.

        Args:
            inputs: [N, S, input_dim]. N and S may be 0.
            mask: [N, S] bool, True for inputs to use; None uses all of them.

        Returns:
            [N, num_queries, output_dim], finite for an item whose mask is all False too.

        Raises:
            ValueError: `mask` is not bool or does not have the inputs' shape [N, S].
        """
        num_items = inputs.shape[0]
        if mask is not None:
            check_mask(mask, inputs)
            mask = F.pad(mask, (0, 1), value=True)[:, None, None]  # [N, 1, 1, S + 1], with the null
        inputs = self.input_proj(inputs)
        latents = self.queries.expand(num_items, -1, -1)
        for layer in self.layers:
            latents = layer(latents, inputs, mask)
        return self.output_proj(self.output_norm(latents))


class ResamplerLayer(nn.Module):
    """One block of the resampler: cross-attention, then feed-forward, both pre-norm and residual."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent_norm = nn.LayerNorm(dim)
        self.input_norm = nn.LayerNorm(dim)
        self.null_input = nn.Parameter(torch.zeros(dim))
        self.query_proj = nn.Linear(dim, dim, bias=False)
        self.key_proj = nn.Linear(dim, dim, bias=False)
        self.value_proj = nn.Linear(dim, dim, bias=False)
        self.output_proj = nn.Linear(dim, dim, bias=False)
        self.ffn = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, FFN_RATIO * dim), nn.GELU(), nn.Linear(FFN_RATIO * dim, dim)
        )
        for projection in (self.query_proj, self.key_proj):
            nn.init.orthogonal_(projection.weight, gain=SHARPNESS)
        for projection in (self.value_proj, self.output_proj):
            nn.init.orthogonal_(projection.weight)
        for parameter in self.ffn[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, latents: Tensor, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """[N, K, C], [N, S, C], bool [N, 1, 1, S + 1] or None -> [N, K, C]."""
        null = self.null_input.expand(inputs.shape[0], 1, -1)
        seen = torch.cat([self.input_norm(inputs), null], dim=1)  # [N, S + 1, C]
        attended = F.scaled_dot_product_attention(
            split_heads(self.query_proj(self.latent_norm(latents)), self.num_heads),
            split_heads(self.key_proj(seen), self.num_heads),
            split_heads(self.value_proj(seen), self.num_heads),
            attn_mask=mask,
        )  # [N, H, K, D]
        latents = latents + self.output_proj(rearrange(attended, "n h k d -> n k (h d)"))
        return latents + self.ffn(latents)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[N, S, C] -> [N, H, S, D]."""
    return rearrange(x, "n s (h d) -> n h s d", h=num_heads)


def check_mask(mask: Tensor, inputs: Tensor) -> None:
    """Raises ValueError unless `mask` is bool and has the shape [N, S] of `inputs` [N, S, C]."""
    if mask.dtype != torch.bool or mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"mask is {mask.dtype} {list(mask.shape)}; expected torch.bool {list(inputs.shape[:2])}, "
            "True for the inputs to use."
        )
