"""The types in which weights that do not learn are held during a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from models import MMInterleaved
from models.compiled_components import layers_of
from models.component_names import CompiledComponent
from models.float8_linear import Float8Linear, to_float8
from trainer.step.starting_weights import RowsInFiles, Stored


def keep_frozen_in(model: MMInterleaved, dtype: torch.dtype) -> None:
    """Store the frozen matrices, kernels and tables in `dtype`: half of the memory, where they are multiplied in it
    anyway. Norms and biases are small and stay. Such a model runs under autocast alone."""
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)


def keep_frozen_in_float8(model: MMInterleaved, stored: Stored) -> None:
    """Hold the frozen matrices of layers of the encoder, the language model and the U-Net in float8: a quarter of the
    memory of float32. Embeddings, heads and convolutions stay, and matrices whose layer someone has changed.

    Args:
        model: with or without its numbers.
        stored: parameters that are still in files; what becomes of them takes their place.
    """
    layers = [layer for component in get_args(CompiledComponent) for layer in layers_of(model, component)]
    for parent in {module for layer in layers for module in layer.modules()}:
        for name, linear in list(parent.named_children()):
            if type(linear) is nn.Linear and not linear.weight.requires_grad:
                weight = linear.get_parameter("weight")
                held = Float8Linear(weight, linear.bias)
                setattr(parent, name, held)
                if (source := stored.pop(weight, None)) is not None:
                    for number, parameter in enumerate((held.weight, held.weight_scale)):
                        stored[parameter] = _Float8InFiles(source, weight, number)


@dataclass(frozen=True)
class _Float8InFiles:
    """What becomes of a matrix in files."""

    source: RowsInFiles
    matrix: Tensor
    """Has its dtype and shape, and no numbers."""

    number: int
    """0: the bytes of its numbers, 1: the scales of its rows."""

    def copy_rows(self, target: Tensor, first_row: int = 0) -> None:
        """Of the rows from `first_row` on, as many as `target` has."""
        rows = torch.empty(len(target), self.matrix.shape[1], dtype=self.matrix.dtype)
        self.source.copy_rows(rows, first_row)
        target.copy_(to_float8(rows)[self.number])
