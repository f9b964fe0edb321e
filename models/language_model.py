"""The multi-modal language model: a LLaMA-like transformers decoder with MMFS between attention and feed-forward.

Letters: B sequences, T tokens, C hidden width, N images of the bank, S pixels of all pyramid levels, F feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache

from mmfs import MMFS
from models.config import LanguageModelConfig
from models.synchronizer import Synchronizer, all_looking_at, each, make_mmfs

NEW_TOKEN_LOGIT = -5.0
"""Of a token that the pre-trained LM never saw, before training (the release: -100 + 95)."""


class LanguageSynchronizer(Synchronizer):
    """MMFS attached to one decoder layer: `tanh(alpha) * MMFS(norm(hidden), norm(features))` (paper 3.2).

    The host layer is extended by hooks and stays as transformers made it: its state-dict keys do not change.
    """

    CENTRE = (0.5, 0.5)
    """Reference point of every text token (paper 3.2)."""

    def __init__(
        self, layer: Any, mmfs: MMFS, gate_init: float, image_positions: Literal["age", "index"] = "age"
    ) -> None:
        norms = nn.RMSNorm(mmfs.query_dim, eps=1e-6), nn.RMSNorm(mmfs.feature_dim, eps=1e-6)
        super().__init__(*norms, mmfs, image_positions)
        self.gate = nn.Parameter(torch.full((1,), gate_init))
        self.residual: Tensor | None = None  # the layer's input, between its two hooks
        layer.register_forward_pre_hook(self._remember_input, with_kwargs=True)
        layer.self_attn.register_forward_hook(self._add_to_attention)

    def forward(self, hidden: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """[B, T, C] states after self-attention -> what the images add to them."""
        centre = hidden.new_tensor(self.CENTRE, dtype=torch.float32)
        return self.gate.tanh() * self.mmfs(self.query_norm(hidden), centre, visible, values=values)

    def _remember_input(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.values is not None:
            self.residual = args[0] if args else kwargs["hidden_states"]

    def _add_to_attention(self, _attention: nn.Module, _args: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        # The layer adds its input to this output; the query of MMFS is that sum.
        attended, *rest = output
        residual, self.residual = self.residual, None
        if self.values is None or self.visible is None or residual is None:
            return None
        return (attended + self(residual + attended, self.values, self.visible), *rest)


class LanguageModel(nn.Module):
    """A causal LM (`host`) whose every n-th layer looks back at the images through a `LanguageSynchronizer`."""

    def __init__(
        self, config: LanguageModelConfig, *, feature_dim: int, spatial_shapes: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        host_config = AutoConfig.for_model(**config.transformer)
        self.host = AutoModelForCausalLM.from_config(host_config, attn_implementation="sdpa")
        self.hidden_size: int = host_config.hidden_size
        first, last = config.mmfs_levels
        sizes = [h * w for h, w in spatial_shapes]
        self.pixels = slice(sum(sizes[:first]), sum(sizes[:last]))  # of S: the levels that the LM samples
        self.synchronizers = nn.ModuleList()
        if config.mmfs is not None:
            for layer in self.decoder.layers[config.mmfs_first :: config.mmfs_every]:
                mmfs = make_mmfs(config.mmfs, self.hidden_size, feature_dim, spatial_shapes[first:last])
                synchronizer = LanguageSynchronizer(layer, mmfs, config.gate_init, config.mmfs.image_positions)
                self.synchronizers.append(synchronizer)
        self.new_token_head = self._extend_head(config.new_tokens) if config.new_tokens else None

    def _extend_head(self, num_new: int) -> nn.Linear:
        """The head of the last `num_new` tokens, which starts them unlikely. The host's head gets a bias; in it these
        tokens have zeros."""
        vocabulary = self.host.get_input_embeddings().num_embeddings
        old, head = self.host.get_output_embeddings(), nn.Linear(self.hidden_size, vocabulary)
        with torch.no_grad():
            head.weight.copy_(old.weight)
            head.weight[-num_new:] = 0
            head.bias.zero_()
        self.host.set_output_embeddings(head)
        new = nn.Linear(self.hidden_size, num_new)
        nn.init.zeros_(new.weight)
        nn.init.constant_(new.bias, NEW_TOKEN_LOGIT)
        return new

    @property
    def decoder(self) -> Any:
        """The transformer without its vocabulary head."""
        return self.host.get_decoder()

    def embed(self, input_ids: Tensor) -> Tensor:
        """[B, T] int64 -> [B, T, C]."""
        return self.host.get_input_embeddings()(input_ids)

    def project_values(self, features: Tensor) -> list[Tensor]:
        """Per synchronizer, what MMFS samples: [N, S, F] -> [N, S', H, D] with S' the pixels of the LM's levels."""
        return [synchronizer.project_values(features[:, self.pixels]) for synchronizer in each(self.synchronizers)]

    def forward(
        self,
        embeddings: Tensor,
        *,
        position_ids: Tensor,
        mask: Tensor,
        values: Sequence[Tensor],
        visible: Tensor,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            embeddings: [B, T, C] of text and visual tokens.
            position_ids: [B, T] int64.
            mask: [B, 1, T, K] bool, True where a token attends; K counts the cached tokens too.
            values: per synchronizer [N, S', H, D], from `project_values`.
            visible: [B, T, 2] int64, range of images of the bank that a token sees.
            cache: keys and values of earlier tokens; extended in place.

        Returns:
            [B, T, C].
        """
        with all_looking_at(self.synchronizers, values, visible):
            output = self.decoder(
                inputs_embeds=embeddings,
                position_ids=position_ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., C] -> [..., vocabulary]."""
        logits = self.host.get_output_embeddings()(hidden)
        if self.new_token_head is None:
            return logits
        added = self.new_token_head(hidden)
        return logits + F.pad(added, (logits.shape[-1] - added.shape[-1], 0))
