"""The multi-modal language model: a decoder of transformers, with MMFS between attention and feed-forward.

Letters: B sequences, T tokens, C hidden width, N images of the bank, S pixels of all pyramid levels, S' of those that
the language model samples, F feature width, H heads, D channels a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache

from mmfs import MMFS
from mmfs.arguments import MMFSAttentionArguments
from models.component_configs import LanguageModelConfig
from models.document_attention import attends_by_document, enable_document_attention
from models.documents import Documents
from models.folded_mmfs import FoldedMMFS, Folds, can_fold
from models.foreign_settings import without_programs
from models.in_this_call import Extended, InThisCall, extend
from models.language_models.families import host_class
from models.sampling_recorder import SamplingRecorder
from models.synchronizer import BoundSynchronizer, Synchronizer, bind, each, make_mmfs

NEW_TOKEN_LOGIT = -5.0
"""Initial logit of a token that the pre-trained LM does not know (the release: -100 + 95)."""


class LanguageSynchronizer(Synchronizer):
    """MMFS of one decoder layer: `tanh(alpha) * MMFS(norm(hidden), norm(features))` (paper 3.2).

    Args:
        mmfs: for queries of C channels and features of F.
        gate_init: initial alpha.
        image_positions: what the position embeddings of images count; see `SynchronizerConfig`.
    """

    CENTRE = (0.5, 0.5)
    """Reference point of every text token (paper 3.2)."""

    def __init__(self, mmfs: MMFS, gate_init: float, image_positions: Literal["age", "index"]) -> None:
        norms = nn.RMSNorm(mmfs.query_dim, eps=1e-6), nn.RMSNorm(mmfs.feature_dim, eps=1e-6)
        super().__init__(*norms, mmfs, image_positions)
        self.gate = nn.Parameter(torch.full((1,), gate_init))

    def forward(
        self,
        hidden: Tensor,
        values: Tensor,
        visible: Tensor,
        record: Callable[[MMFSAttentionArguments], None] | None = None,
    ) -> Tensor:
        """[B, T, C] states after self-attention, values [N, S', H, D], visible [B, T, 2] int64 -> [B, T, C], what the
        images add to the states, in their dtype."""
        query = self.query_norm(hidden.to(self.gate.dtype))
        # Filled and not copied from the CPU, which a CUDA graph could not record.
        centre = torch.stack([hidden.new_full((), share, dtype=torch.float32) for share in self.CENTRE])
        seen = self.mmfs(query, centre, visible, values=values, record=record)
        return (self.gate.tanh() * seen).to(hidden.dtype)

    @property
    def can_be_folded(self) -> bool:
        """Whether `fold` is possible: no module is adapted, quantised or has hooks."""
        return can_fold(self, self.mmfs, self.query_norm, self.gate)

    def fold(self) -> FoldedMMFS | None:
        """The layer and its gate as they are now, folded for inference; None if that would leave something out."""
        if not self.can_be_folded:
            return None
        return FoldedMMFS(self.mmfs, cast(nn.RMSNorm, self.query_norm), self.CENTRE, self.gate.tanh())


class SynchronizedLayer(Extended):
    """A decoder layer with MMFS between attention and feed-forward: what the synchronizer returns is added to what the
    layer adds to its input, and the sum of both is what the synchronizer reads."""

    attended: str
    """The name of the submodule whose (first) result the layer adds to its input; see `LanguageHost.ATTENDED`."""

    synchronizer_index: int | None
    """Which of the model's synchronizers is this layer's."""

    def __call__(self, *args: Any, synchronizers: Sequence[BoundSynchronizer] | None = None, **kwargs: Any) -> Any:
        """The layer with its own synchronizer of the call's."""
        # Chosen here, before what `compile` compiles: the same graph serves every layer.
        index = self.synchronizer_index
        own = None if synchronizers is None or index is None else synchronizers[index]
        return super().__call__(*args, synchronizer=own, **kwargs)

    def forward(self, hidden: Tensor, *args: Any, synchronizer: BoundSynchronizer | None = None, **kwargs: Any) -> Any:
        """As the layer's own, and MMFS if there is a synchronizer."""
        if synchronizer is None:
            return super().forward(hidden, *args, **kwargs)
        attended = getattr(self, self.attended)

        def synchronized(*given: Any, **named: Any) -> Any:
            output = attended(*given, **named)
            first, *rest = output if isinstance(output, tuple) else (output,)
            first = synchronizer.add_to(first, hidden)
            return (first, *rest) if isinstance(output, tuple) else first

        return self.forward_with({self.attended: InThisCall(attended, synchronized)}, (hidden, *args), kwargs)


class LanguageModel(nn.Module):
    """A causal LM (`host`) whose every n-th layer attends to the images through a `LanguageSynchronizer`. The layers
    are `SynchronizedLayer`s then, with the same names of weights.

    Args:
        config: sizes and choices.
        feature_dim: F.
        spatial_shapes: (h, w) of the pyramid's levels.
        host: a causal LM that was loaded already and fits `config.transformer`. None: a new one.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        *,
        feature_dim: int,
        spatial_shapes: Sequence[tuple[int, int]],
        host: Any = None,
    ) -> None:
        super().__init__()
        if host is None:
            host_class(config.transformer.get("model_type"), "The language model's configuration")
            host_config = AutoConfig.for_model(**without_programs(config.transformer))
            host = AutoModelForCausalLM.from_config(host_config, attn_implementation="sdpa", trust_remote_code=False)
        self.host = host
        self.family = host_class(host.config.model_type, "The language model")(host)
        self.config = config
        self.hidden_size: int = host.config.hidden_size
        first, last = config.mmfs_levels
        sizes = [h * w for h, w in spatial_shapes]
        self.pixels = slice(sum(sizes[:first]), sum(sizes[:last]))  # of S: the levels that the LM samples
        self.synchronizers = nn.ModuleList()
        if config.mmfs is not None:
            for layer in self.decoder.layers:
                extend(layer, SynchronizedLayer)
                layer.attended, layer.synchronizer_index = self.family.ATTENDED, None
            for index, layer in enumerate(self.decoder.layers[config.mmfs_first :: config.mmfs_every]):
                mmfs = make_mmfs(config.mmfs, self.hidden_size, feature_dim, spatial_shapes[first:last])
                layer.synchronizer_index = index
                self.synchronizers.append(LanguageSynchronizer(mmfs, config.gate_init, config.mmfs.image_positions))
        self._folds = Folds()
        if config.new_tokens and config.new_tokens_from is None:
            self._widen_head(config.new_tokens)
        self.new_token_head = self._make_new_token_head() if config.new_tokens else None
        self.register_state_dict_post_hook(_leave_out_tied_head)
        self.register_load_state_dict_pre_hook(_restore_tied_head)

    def _make_new_token_head(self) -> nn.Linear:
        """The head of the new tokens, which are unlikely at first."""
        head = nn.Linear(self.hidden_size, self.config.new_tokens)
        nn.init.zeros_(head.weight)
        nn.init.constant_(head.bias, NEW_TOKEN_LOGIT)
        return head

    def _widen_head(self, num_new: int) -> None:
        """Give the host's head a bias, and zeros for the last `num_new` tokens."""
        vocabulary = self.host.get_input_embeddings().num_embeddings
        old, head = self.host.get_output_embeddings(), nn.Linear(self.hidden_size, vocabulary)
        with torch.no_grad():
            head.weight.copy_(old.weight)
            head.weight[-num_new:] = 0
            head.bias.zero_()
        self.host.set_output_embeddings(head)

    @property
    def decoder(self) -> Any:
        """The transformer without its vocabulary head."""
        return self.host.get_decoder()

    @property
    def vocabulary_size(self) -> int:
        """Ids that `embed` takes and `logits` answers for."""
        after_new = (self.config.new_tokens_from or 0) + self.config.new_tokens
        return max(self.host.get_input_embeddings().num_embeddings, after_new)

    def embed(self, input_ids: Tensor) -> Tensor:
        """[B, T] int64 -> [B, T, C]."""
        table, first = self.host.get_input_embeddings(), self.config.new_tokens_from
        if first is None:
            return table(input_ids)
        is_new = (input_ids >= first) & (input_ids < first + self.config.new_tokens)
        return table(input_ids.masked_fill(is_new, 0)).masked_fill(is_new.unsqueeze(-1), 0)

    @torch.no_grad()
    def mean_embedding(self) -> Tensor:
        """[C] float32, the mean of what `embed` gives for the tokens of the host."""
        table = self.host.get_input_embeddings().weight
        return table.mean(dim=0, dtype=torch.float32) * self.family.embedding_scale

    def project_values(self, features: Tensor) -> list[Tensor]:
        """Per synchronizer, what MMFS samples: [N, S, F] -> [N, S', H, D]."""
        return [synchronizer.project_values(features[:, self.pixels]) for synchronizer in each(self.synchronizers)]

    def fold(self) -> Sequence[FoldedMMFS | None]:
        """Per synchronizer, its layer as it is now, folded for inference, or None where it cannot be; an argument of
        `forward`. It is folded once, and again when a number in it has changed, however that was done."""
        synchronizers = list(cast(Iterable[LanguageSynchronizer], self.synchronizers))
        return self._folds.of(synchronizers)

    def train(self, mode: bool = True) -> LanguageModel:
        """As of every module; training forgets what was folded."""
        if mode:
            self._folds.forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> LanguageModel:
        self._folds.forget()  # what was folded would stay on the device that the model leaves
        return super()._apply(fn, recurse)

    def forward(
        self,
        embeddings: Tensor,
        *,
        position_ids: Tensor,
        mask: Tensor | Documents,
        values: Sequence[Tensor],
        visible: Tensor,
        cache: Cache | None = None,
        folded: Sequence[FoldedMMFS | None] | None = None,
        recorder: SamplingRecorder | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, with the share of the embeddings that `embedding_skip` adds.

        Args:
            embeddings: [B, T, C] of text and visual tokens.
            position_ids: [B, T] int64.
            mask: [B, 1, T, K] bool, True where a token attends; K counts the cached tokens too. Or, without a cache and
                after `enable_document_attention`, the documents of the rows.
            values: per synchronizer [N, S', H, D], from `project_values`.
            visible: [B, T, 2] int64, range of images of the bank that a token sees.
            cache: keys and values of earlier tokens; extended in place.
            folded: per synchronizer, from `fold`: the same, faster and without gradients. None: the layers themselves.
            recorder: gets what each synchronizer asks of the op. None: nobody.

        Returns:
            [B, T, C].

        Raises:
            ValueError: another number of values, or of folded layers, than of synchronizers.
        """
        synchronizers = bind(self.synchronizers, values, visible, folded, recorder)
        output = self.decoder(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            attention_mask=None if isinstance(mask, Documents) else self.family.masks(mask),
            past_key_values=cache,
            use_cache=cache is not None,
            **({"synchronizers": synchronizers} if synchronizers else {}),
            **({"documents": mask} if isinstance(mask, Documents) else {}),
        )
        hidden = output.last_hidden_state
        return hidden + self.config.embedding_skip * embeddings if self.config.embedding_skip else hidden

    def enable_document_attention(self) -> None:
        """From now on, `forward` takes `Documents` for a mask, whose size does not grow with the square of the tokens.

        Raises:
            ValueError: the model drops attention in training, which attention by document does not compute.
        """
        enable_document_attention(self.host)

    @property
    def attends_by_document(self) -> bool:
        """Whether it does."""
        return attends_by_document(self.host)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., C] -> [..., vocabulary_size]."""
        logits = self.host.get_output_embeddings()(hidden)
        if self.new_token_head is None:
            return logits
        weight = next(self.new_token_head.parameters(), hidden)  # quantised, it has none
        added = self.new_token_head(hidden.to(weight.dtype)).to(logits.dtype)
        first = self.config.new_tokens_from
        if first is None:
            return logits + F.pad(added, (logits.shape[-1] - added.shape[-1], 0))
        return torch.cat([logits[..., :first], added, logits[..., first + added.shape[-1] :]], dim=-1)


EMBEDDING, HEAD = "host.model.embed_tokens.weight", "host.lm_head.weight"


def _is_tied(model: LanguageModel) -> bool:
    return model.host.get_output_embeddings().weight is model.host.get_input_embeddings().weight


def _leave_out_tied_head(model: LanguageModel, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """A head that is the embedding is stored once, as transformers stores it; safetensors takes no tensor twice."""
    if _is_tied(model):
        del state[prefix + HEAD]


def _restore_tied_head(model: LanguageModel, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if _is_tied(model) and prefix + EMBEDDING in state:
        state[prefix + HEAD] = state[prefix + EMBEDDING]
