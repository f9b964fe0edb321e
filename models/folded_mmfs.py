"""MMFS of a language model for inference: all linear maps before the sampling are one matrix, and those after it too.

Letters: B sequences, T tokens, C language-model width, H heads, D channels a head, L levels, P points, A ages, N images
of the bank, S pyramid pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfs import MMFS
from mmfs.arguments import MMFSAttentionArguments
from mmfs.autograd import implementation


class FoldedMMFS:
    """`gate * MMFS(norm(hidden))` with the maps of Eq. 4 multiplied out: norm, `W_q`, `W_p` and `W_A` are one matrix
    [H*P*2 + H*L*P, C], the contributions of the ages are tables, and the gate is part of the output matrix.

    The time of decoding is that of reading the weights: 9 M instead of 35 M for a layer of the released model. This is
    a copy, valid while the layer's weights do not change, and has no gradients.

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
        self.maps = (maps @ mixing * norm.weight.float()).to(self.dtype)  # [H*P*2 + H*L*P, C]
        self.bias = (maps @ mixing_bias + bias).to(self.dtype)
        ages = mmfs.age_embedding.float()
        self.offset_table = (ages @ to_offsets.T).view(-1, *self.offset_shape)  # [A, H, P, 2]
        self.logit_table = (ages @ to_logits.T).to(self.dtype).view(-1, *self.logit_shape)  # [A, H, L, P]
        self.output = (mmfs.output_proj.weight.float() * gate.float()).to(self.dtype)  # [C, H*D]
        self.output_bias = (mmfs.output_proj.bias.float() * gate.float()).to(self.dtype)
        self.reference_point = mixing.new_tensor(reference_point)

    def __call__(self, hidden: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """
        Args:
            hidden: [B, T, C].
            values: [N, S, H, D] of `MMFS.project_values`.
            visible: [B, T, 2] int64, first and one past the last image that each token sees.

        Returns:
            [B, T, C], of the dtype of `hidden`.
        """
        tokens = hidden.shape[:2]
        both = F.linear(F.rms_norm(hidden.to(self.dtype), hidden.shape[-1:], eps=self.eps), self.maps, self.bias)
        offsets = both.narrow(-1, 0, self.num_offsets).float().view(*tokens, *self.offset_shape)
        logits = both.narrow(-1, self.num_offsets, self.num_logits).view(*tokens, *self.logit_shape)
        # The backend is called directly: for one token, the checks of `mmfs.mmfs_attention` and the operator with its
        # gradient take longer than the sampling.
        arguments = MMFSAttentionArguments(
            values,
            self.sizes,
            self.reference_point.expand(*tokens, 2),
            offsets,
            logits,
            visible,
            self.offset_table,
            self.logit_table,
            self.null_logit,
            self.null_value,
        )
        sampled = implementation(values).mmfs_attention_forward(arguments)  # [B, T, H*D]
        return F.linear(sampled, self.output, self.output_bias).to(hidden.dtype)
