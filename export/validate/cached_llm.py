"""Gives a language model that writes its cache in place the ports of one that only reads it, so that all layouts are
checked with the same cases.

Letters: B sequences, T new tokens, K rows of the cache, G heads of keys and values, D channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.components.llm import GARBAGE
from export.runtime.runner import ComponentRunner, Tensors
from export.validate.parity import ParityError, Run


def as_trt_split(runner: ComponentRunner, dtype: torch.dtype) -> Run:
    """Takes any number of past rows and returns the new ones, by means of a runner that returns `present_...`.

    Rows beyond those of a case are filled with garbage, which must have no effect. If `runner` changes any rows but the
    new ones, that is an error.

    Args:
        runner: the language model.
        dtype: its inputs are rounded to this first.
    """

    def run(inputs: Tensors) -> Tensors:
        rounded = {name: one.to(dtype) if one.is_floating_point() else one for name, one in inputs.items()}
        num_new, first_new = inputs["inputs_embeds"].shape[1], inputs["write_indices"]
        past = {
            name: with_rows(rounded[name], _num_rows(runner, inputs)).to(runner.inputs[name].dtype)
            for name in runner.aliases.values()
        }
        before = {name: rows.clone() for name, rows in past.items()}
        found = runner(**{**rounded, **past})
        outputs = {name: tensor.float() for name, tensor in found.items() if name not in runner.aliases}
        place = first_new[:, None, None, None] + torch.arange(num_new)[:, None]  # [B, 1, T, 1]
        for present, name in runner.aliases.items():
            here = place.expand(-1, past[name].shape[1], -1, past[name].shape[3])  # [B, G, T, D]
            outputs[name.replace("past_", "new_")] = found[present].gather(2, here).float()
            if not torch.equal(found[present], before[name].scatter(2, here, found[present].gather(2, here))):
                raise ParityError(f"{runner.name}: {present} differs from {name} in other rows than the new ones.")
            if past[name].data_ptr() != found[present].data_ptr():
                raise ParityError(f"{runner.name}: {present} is not where {name} is, and should be written in place.")
        return outputs

    return run


def with_rows(past: Tensor, num_rows: int) -> Tensor:
    """[B, G, K, D] -> [B, G, num_rows, D]: as many of the rows, or garbage behind them."""
    kept = past[:, :, :num_rows]
    noise = torch.randn(*past.shape[:2], num_rows - kept.shape[2], past.shape[3], generator=_generator())
    return torch.cat([kept, (noise * GARBAGE).to(past.dtype)], dim=2)


def _num_rows(runner: ComponentRunner, inputs: Tensors) -> int:
    """Number of rows of the cache: that of the graph, or as many as are needed.

    Raises:
        ParityError: it has too few.
    """
    needed = int(inputs["write_indices"].max()) + inputs["inputs_embeds"].shape[1]
    has = runner.inputs["past_key_0"].shape[2]
    if not isinstance(has, int):
        return max(needed, inputs["past_key_0"].shape[2])
    if needed > has:
        raise ParityError(
            f"{runner.name}: a document to check with needs {needed} rows of the cache, and it has {has}. Export with "
            "a larger --max-past."
        )
    return has


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
