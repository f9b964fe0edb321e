"""MMFS of a language model for inference: all linear maps before the sampling are one matrix, and those after it too.

Letters: B sequences, T tokens, C language-model width, H heads, D channels a head, L levels, P points, A ages, N images
of the bank, S pyramid pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfs import MMFS
from mmfs.arguments import MMFSAttentionArguments
from mmfs.autograd import implementation
from mmfs.compiled_layer import folded_layer
from mmfs.layer import has_hooks, is_plain_linear


class FoldedMMFS:
    """`gate * MMFS(norm(hidden))` with the maps of Eq. 4 multiplied out: norm, `W_q`, `W_p` and `W_A` are one matrix
    [H*P*2 + H*L*P, C], the contributions of the ages are tables, and the gate is part of the output matrix.

    The time of decoding is that of reading the weights: 9 M instead of 35 M for a layer of the released model. This is
    a copy, valid while the layer's weights do not change, and has no gradients. The modules are not called: `can_fold`
    says whether that makes no difference.

    Args:
        mmfs: the layer.
        norm: of the queries.
        reference_point: (x, y) in [0, 1], of every query.
        gate: [1], what the result is multiplied by.
    """

    @torch.no_grad()
    def __init__(self, mmfs: MMFS, norm: nn.RMSNorm, reference_point: tuple[float, float], gate: Tensor) -> None:
        self.dtype = mmfs.query_proj.weight.dtype
        self.eps = norm.eps
        self.sizes = [side for shape in mmfs.spatial_shapes for side in shape]
        self.null_value, self.null_logit = mmfs.null_value, None if mmfs.null_value is None else 0.0
        self.offset_shape = (mmfs.num_heads, mmfs.num_points, 2)
        self.logit_shape = (mmfs.num_heads, mmfs.num_levels, mmfs.num_points)
        self.num_offsets = mmfs.sampling_offsets.out_features
        self.num_logits = mmfs.attention_weights.out_features
        # Multiply in float32, so that half precision rounds the products only once.
        mixing, mixing_bias = mmfs.query_proj.weight.float(), mmfs.query_proj.bias.float()
        cells = mixing.new_tensor(mmfs.base).repeat(self.num_offsets // 2)  # w, h, w, h, ...
        to_offsets = mmfs.sampling_offsets.weight.float() / cells[:, None]  # from here on in units of the image
        to_logits = mmfs.attention_weights.weight.float()
        maps = torch.cat([to_offsets, to_logits])
        bias = torch.cat([mmfs.sampling_offsets.bias.float() / cells, mmfs.attention_weights.bias.float()])
        channels = mixing.shape[1]
        # On a CPU, `F.rms_norm` of one token is five operators: here they are three, and its factor is in the matrix.
        self.least_length: Tensor | None = None  # [1], sqrt(C * eps)
        self.least_square = channels * (norm.eps or 0.0)
        scale = norm.weight.float()
        if norm.eps is not None and mixing.device.type == "cpu" and self.dtype == torch.float32:
            self.least_length = mixing.new_tensor([math.sqrt(channels * norm.eps)])
            scale = scale * math.sqrt(channels)
        self.maps = (maps @ mixing * scale).to(self.dtype)  # [H*P*2 + H*L*P, C]
        self.bias = (maps @ mixing_bias + bias).to(self.dtype)
        ages = mmfs.age_embedding.float()
        self.offset_table = (ages @ to_offsets.T).view(-1, *self.offset_shape)  # [A, H, P, 2]
        self.logit_table = (ages @ to_logits.T).to(self.dtype).view(-1, *self.logit_shape)  # [A, H, L, P]
        self.output = (mmfs.output_proj.weight.float() * gate.float()).to(self.dtype)  # [C, H*D]
        self.output_bias = (mmfs.output_proj.bias.float() * gate.float()).to(self.dtype)
        self.reference_point = mixing.new_tensor(reference_point)

    def __call__(
        self,
        hidden: Tensor,
        values: Tensor,
        visible: Tensor,
        record: Callable[[MMFSAttentionArguments], None] | None = None,
    ) -> Tensor:
        """
        Args:
            hidden: [B, T, C].
            values: [N, S, H, D] of `MMFS.project_values`.
            visible: [B, T, 2] int64, first and one past the last image that each token sees.
            record: as for `MMFS`.

        Returns:
            [B, T, C], of the dtype of `hidden`.
        """
        at_once = self._at_once(hidden, None, values, visible) if record is None else None
        return self._step_by_step(hidden, values, visible, record) if at_once is None else at_once

    def add_to(
        self,
        attended: Tensor,
        hidden: Tensor,
        values: Tensor,
        visible: Tensor,
        record: Callable[[MMFSAttentionArguments], None] | None = None,
    ) -> Tensor:
        """`attended` plus what a call returns for `hidden + attended`, both [B, T, C]."""
        at_once = self._at_once(hidden, attended, values, visible) if record is None else None
        return attended + self._step_by_step(hidden + attended, values, visible, record) if at_once is None else at_once

    def _at_once(self, hidden: Tensor, attended: Tensor | None, values: Tensor, visible: Tensor) -> Tensor | None:
        """For a few tokens in float32 on a CPU, all of it in one call of C; None for others."""
        if self.least_length is None or torch.compiler.is_compiling():
            return None
        return folded_layer(
            hidden,
            attended,
            values,
            visible,
            spatial_shapes=self.sizes,
            least_square=self.least_square,
            maps=self.maps,
            bias=self.bias,
            reference_point=self.reference_point,
            offset_table=self.offset_table,
            logit_table=self.logit_table,
            null_value=self.null_value,
            output=self.output,
            output_bias=self.output_bias,
        )

    def _step_by_step(
        self,
        hidden: Tensor,
        values: Tensor,
        visible: Tensor,
        record: Callable[[MMFSAttentionArguments], None] | None,
    ) -> Tensor:
        """As `__call__`, by operators."""
        batch, num_tokens, _ = hidden.shape
        # Asked first: a conversion that converts nothing costs what half of a small product does.
        states = hidden if hidden.dtype == self.dtype else hidden.to(self.dtype)
        both = F.linear(self._normalised(states), self.maps, self.bias)
        # One view each, where narrowing, converting and viewing would be three operators.
        _, num_levels, num_points = self.logit_shape
        num_both, num_samples = self.num_offsets + self.num_logits, num_levels * num_points
        rows = (num_tokens * num_both, num_both)  # of `both`, which is contiguous
        offsets = both.as_strided((batch, num_tokens, *self.offset_shape), (*rows, 2 * num_points, 2, 1))
        if offsets.dtype != torch.float32:
            offsets = offsets.float()
        logits = both.as_strided(
            (batch, num_tokens, *self.logit_shape), (*rows, num_samples, num_points, 1), self.num_offsets
        )
        # The backend is called directly: for one token, the checks of `mmfs.mmfs_attention` and the operator with its
        # gradient take longer than the sampling.
        arguments = MMFSAttentionArguments(
            values,
            self.sizes,
            self.reference_point.expand(batch, num_tokens, 2),
            offsets,
            logits,
            visible,
            self.offset_table,
            self.logit_table,
            self.null_logit,
            self.null_value,
        )
        if record is not None:
            record(arguments)
        if torch.compiler.is_compiling():
            sampled = torch.ops.mmfs.mmfs_attention(*arguments)  # [B, T, H*D]
        else:
            sampled = implementation(values).mmfs_attention_forward(arguments)
        out = F.linear(sampled, self.output, self.output_bias)
        return out if out.dtype == hidden.dtype else out.to(hidden.dtype)

    def _normalised(self, states: Tensor) -> Tensor:
        """[B, T, C] divided by their root mean square or, with `least_length`, by their length."""
        if self.least_length is None:
            return F.rms_norm(states, states.shape[-1:], eps=self.eps)
        return states / torch.hypot(torch.linalg.vector_norm(states, dim=-1, keepdim=True), self.least_length)


def can_fold(owner: nn.Module, mmfs: MMFS, norm: nn.Module, gate: Tensor) -> bool:
    """Whether a layer computes what its weights say: no module of it was exchanged (adapted, quantised, with a weight
    that is computed from others) or has hooks, `owner`, whose layer and norm they are, neither; and no backend was
    chosen for it."""
    projections = (mmfs.query_proj, mmfs.sampling_offsets, mmfs.attention_weights, mmfs.output_proj)
    return (
        type(mmfs) is MMFS
        and mmfs.backend is None
        and type(norm) is nn.RMSNorm
        and all(map(is_plain_linear, projections))
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in (gate, *mmfs.parameters(), *norm.parameters()))
        and not any(map(has_hooks, (owner, mmfs, norm)))
    )


class Foldable(Protocol):
    """What can be folded."""

    def fold(self) -> FoldedMMFS | None:
        """As it is now; None: it cannot be."""

    @property
    def can_be_folded(self) -> bool:
        """Whether it can."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Whose numbers count."""


class Folds:
    """The layers of one model, folded once, and again when a number in them has changed. Several threads may ask.

    Not every change of a number counts up its tensor's version (a write through `.data`, a buffer that FSDP fills
    again), so the numbers themselves are compared, as `fingerprint`, in a small part of the time of folding.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._made_of: tuple[list[object], Tensor] | None = None
        self._made: list[FoldedMMFS | None] = []

    @torch.no_grad()
    @torch.inference_mode(False)  # what is made in one call serves others
    def of(self, layers: Sequence[Foldable]) -> list[FoldedMMFS | None]:
        """Each layer folded, or None where it cannot be."""
        with self._lock:
            can = [layer.can_be_folded for layer in layers]
            tensors = [tensor for layer, yes in zip(layers, can, strict=True) if yes for tensor in layer.parameters()]
            kinds = [*can, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)]
            bits = fingerprint(tensors)
            if self._made_of is None or kinds != self._made_of[0] or not torch.equal(bits, self._made_of[1]):
                self._made_of, self._made = None, []  # not two at a time
                self._made = [layer.fold() for layer in layers]
                self._made_of = kinds, bits
            return list(self._made)

    def forget(self) -> None:
        """Free the memory."""
        with self._lock:
            self._made_of, self._made = None, []

    def __reduce__(self) -> Any:
        return Folds, ()  # a copy of the model folds for itself


def fingerprint(tensors: Sequence[Tensor]) -> Tensor:
    """Numbers that differ when the tensors do, int64: of a matrix, the sums of its bits along rows and columns, of a
    small tensor the bits. All on the device of the first tensor."""
    parts = [bits for tensor in tensors for bits in _sums_of_bits(tensor.detach().contiguous())]
    return torch.cat([part.to(parts[0].device, torch.int64) for part in parts]) if parts else torch.empty(0)


INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Of as many bytes."""

FEW_NUMBERS = 2**12


def _sums_of_bits(tensor: Tensor) -> Sequence[Tensor]:
    size = tensor.element_size()
    if tensor.numel() <= FEW_NUMBERS:
        return (tensor.flatten().view(INTEGERS[size]),)
    fills_words = tensor.shape[-1] * size % 8 == 0
    matrix = tensor.view(-1, tensor.shape[-1]).view(torch.int64 if fills_words else INTEGERS[size])
    return matrix.sum(0), matrix.sum(1)
