"""Multi-image, multi-scale deformable attention (the feature synchronizer of MM-Interleaved) for PyTorch."""

from mmfs.attention_replacement import AttentionReplacement, replace_attention, restore_attention
from mmfs.cuda import warmup
from mmfs.explanation import explain
from mmfs.functional import mmfs_attention, ms_deform_attn, why_not_compiled, why_not_cuda
from mmfs.layer import MMFS, MSDeformAttn, MultiScaleDeformableAttention

__all__ = [
    "MMFS",
    "AttentionReplacement",
    "MSDeformAttn",
    "MultiScaleDeformableAttention",
    "explain",
    "mmfs_attention",
    "ms_deform_attn",
    "replace_attention",
    "restore_attention",
    "warmup",
    "why_not_compiled",
    "why_not_cuda",
]
__version__ = "0.1.0"
