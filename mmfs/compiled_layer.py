"""A folded MMFS layer of a few tokens in one call of the compiled CPU kernel: norm, product, sampling, product.

Each of these is an operator of PyTorch otherwise, and takes longer to be called than to compute.

Letters: B sequences, T tokens, C width of the layer, H heads, D channels a head, L levels, P points, A ages, N images
of the bank, S pyramid pixels.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmfs import dispatch
from mmfs.compiled import (
    ADDRESS_OF_NONE,
    DONE,
    InstructionSet,
    best_instruction_set,
    describe_tensor,
    levels_of,
    library,
    why_no_library,
)
from mmfs.eager import wants_gradient

MOST_PRODUCTS = 2**20
"""Of two numbers, in both matrices, that one call computes; more are faster as products of matrices by PyTorch."""


@functools.cache
def layer_function(instruction_set: InstructionSet) -> Any:
    """mmfs_cpu_folded_layer of a library. It is called with Python's lock, which PyTorch's function needs."""
    prototype = ctypes.PYFUNCTYPE(
        ctypes.c_int32,
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
        ctypes.c_double,
        *(ctypes.py_object,) * 13,
    )
    return prototype(("mmfs_cpu_folded_layer", library(instruction_set)))


def folded_layer(
    hidden: Tensor,
    attended: Tensor | None,
    values: Tensor,
    visible: Tensor,
    *,
    spatial_shapes: Sequence[int],
    least_square: float,
    maps: Tensor,
    bias: Tensor,
    reference_point: Tensor,
    offset_table: Tensor,
    logit_table: Tensor,
    null_value: Tensor | None,
    output: Tensor,
    output_bias: Tensor,
) -> Tensor | None:
    """`attended + output @ sampled + output_bias`, where `mmfs_attention` samples what
    `maps @ x / sqrt(|x|^2 + least_square) + bias` says, with `x = hidden + attended`. None if that is not computed
    here: there is no compiled kernel, the tensors are no plain float32 arrays of the CPU that fit each other, somebody
    has to hear of the operators, or the call is large. Whoever computes it then says what is wrong, if something is.

    Args:
        hidden: [B, T, C].
        attended: [B, T, C]. None: 0.
        values: [N, S, H, D].
        visible: [B, T, 2] int64, ranges of images.
        spatial_shapes: h, w, h, w, ... of the levels.
        least_square: what keeps the norm from dividing by 0.
        maps: [H*P*2 + H*L*P, C], of offsets in units of an image, then of logits.
        bias: [H*P*2 + H*L*P].
        reference_point: [2], of all tokens.
        offset_table: [A, H, P, 2].
        logit_table: [A, H, L, P].
        null_value: [H, D], whose logit is 0. None: no null.
        output: [C, H*D].
        output_bias: [C].

    Returns:
        [B, T, C].
    """
    num_products = (maps.numel() + output.numel()) * (hidden.numel() // maps.shape[-1])
    if num_products > MOST_PRODUCTS or why_no_library() is not None:
        return None
    describe, levels = describe_tensor(), levels_of(tuple(spatial_shapes))
    given = (hidden, attended, values, visible)
    if describe is None or levels is None or dispatch.is_needed(given) or wants_gradient(given):
        return None
    out = torch.empty_like(hidden)
    try:
        status = layer_function(best_instruction_set())(
            describe,
            ADDRESS_OF_NONE,
            torch.get_num_threads(),
            levels.address,
            levels.num_levels,
            levels.num_pixels,
            least_square,
            hidden,
            attended,
            values,
            visible,
            maps,
            bias,
            reference_point,
            offset_table,
            logit_table,
            null_value,
            output,
            output_bias,
            out,
        )
    except RuntimeError:  # PyTorch's, of a tensor without memory
        return None
    return out if status == DONE else None
