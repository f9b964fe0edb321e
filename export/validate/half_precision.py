"""The checks of a graph of half precision: its errors are compared with PyTorch's in the same precision.

Letters: B sequences, T new tokens, K rows of the cache, C language-model width, N images of the bank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.components.check_inputs import Case
from export.components.component import Component, Tolerances
from export.formats import Precision
from export.store.manifest import CaseResult
from export.validate.parity import ParityError, Run

LARGEST_SHARE = 0.5
"""Of the largest float16, what an activation may reach."""

NUM_TOKENS = 32
LEAST_MARGIN = 0.1
"""Between the two largest logits, where another token counts as a mistake."""

Tensors = dict[str, Tensor]


@torch.no_grad()
def check_half(component: Component, run: Run, cases: Sequence[Case], precision: Precision) -> list[CaseResult]:
    """Compare a graph with PyTorch in float32, and its errors with those of PyTorch in its own precision.

    Args:
        component: with its float32 module.
        run: the graph.
        cases: real inputs.
        precision: of the graph.

    Returns:
        Per case the error of each output, relative to its length as a vector.

    Raises:
        ParityError: a tolerance is exceeded; with component, case, output and figures.
    """
    dtype = getattr(torch, precision)
    results = []
    for case in cases:
        expected = component.run(case.inputs)
        largest = _largest_activation(component.module, component, case) if precision == "float16" else 0.0
        if largest > LARGEST_SHARE * torch.finfo(dtype).max:
            raise ParityError(
                f"{component.name}, case {case.name!r}: an activation reaches {largest:.0f}, and float16 ends at "
                f"{torch.finfo(dtype).max:.0f}. Export it with --precision bfloat16."
            )
        eager, found = _eager(component, case.inputs, dtype), run(case.inputs)
        errors = {}
        for name, right in expected.items():
            where = f"{component.name}, case {case.name!r}: output {name}"
            errors[name] = _judge(found[name], right, eager[name], dtype, component.tolerances, where)
        results.append(CaseResult(case.name, {n: list(t.shape) for n, t in case.inputs.items()}, errors))
    return results


def _judge(
    found: Tensor, right: Tensor, eager: Tensor, dtype: torch.dtype, tolerances: Tolerances, where: str
) -> float:
    """The error, if it passes."""
    error = relative_length(found, right, where)
    if not right.any():
        return error
    own = float((eager.double() - right.double()).norm() / right.double().norm())
    allowed = tolerances.times_eager * max(
        own, torch.finfo(dtype).eps / 2
    )  # half a step is what rounding a result may cost
    if not error <= allowed:
        raise ParityError(
            f"{where} is off by {error:.1e} of its length; PyTorch in {dtype} is off by {own:.1e}, and {allowed:.1e} "
            "is allowed."
        )
    check_direction(found, right, where, tolerances.cosine, tolerances.norm)
    return error


def relative_length(found: Tensor, right: Tensor, where: str) -> float:
    """The length of the difference relative to that of the right result, as vectors.

    Raises:
        ParityError: of another shape, not finite, or not zero where it should be.
    """
    if found.shape != right.shape:
        raise ParityError(f"{where} has the shape {list(found.shape)} where PyTorch has {list(right.shape)}.")
    if not found.isfinite().all():
        raise ParityError(f"{where} is not finite.")
    size = right.double().norm()
    if size == 0:
        if found.any():
            raise ParityError(f"{where} is not zero where PyTorch's is.")
        return 0.0
    return float((found.double() - right.double()).norm() / size)


def check_direction(found: Tensor, right: Tensor, where: str, least_cosine: float, most_norm_change: float) -> None:
    """Refuse a result whose direction or length as a vector differs from PyTorch's; a result of zeros passes.

    Raises:
        ParityError: with the figures.
    """
    found, right = found.double().flatten(), right.double().flatten()
    size = right.norm()
    if size == 0:
        return
    cosine = float(F.cosine_similarity(found, right, dim=0))
    if not cosine >= least_cosine:
        raise ParityError(f"{where} has a cosine of {cosine:.5f} with PyTorch's; at least {least_cosine} is expected.")
    change = abs(float(found.norm() / size) - 1)
    if not change <= most_norm_change:
        raise ParityError(f"{where} is longer or shorter by {change:.1e}; {most_norm_change:.0e} is allowed.")


def _eager(component: Component, inputs: Tensors, dtype: torch.dtype) -> Tensors:
    """What PyTorch computes with weights and inputs in another precision."""
    weights = {name: weight.to(dtype) for name, weight in component.module.named_parameters()}
    given = (
        tensor.to(dtype) if tensor.is_floating_point() and name not in component.float32_in_pytorch else tensor
        for name, tensor in ((name, inputs[name]) for name in component.inputs)
    )
    outputs = torch.func.functional_call(component.module, weights, tuple(given))
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    return dict(zip(component.outputs, outputs, strict=True))


def _largest_activation(module: nn.Module, component: Component, case: Case) -> float:
    """Over the outputs of all modules inside."""
    largest = 0.0

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            largest = max(largest, float(output.abs().max()))

    hooks = [inner.register_forward_hook(look) for inner in module.modules()]
    try:
        component.run(case.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


@torch.no_grad()
def check_seeing(component: Component, run: Run, case: Case) -> None:
    """Check that a visible image changes the result as much as in PyTorch, and an invisible one not at all: at most a
    hundredth of that, since two runs of a graph may add in another order.

    Args:
        component: with synchronizers.
        run: its graph.
        case: at least three images in the bank.

    Raises:
        ParityError: the graph attends to other images.
    """
    inputs = {**case.inputs, "visible": torch.zeros_like(case.inputs["visible"]) + torch.tensor([1, 2])}
    name = next(iter(component.outputs))

    def changed_by(image: int, compute: Run) -> float:
        other = dict(inputs)
        for port in inputs:
            if component.inputs[port].role == "bank":
                other[port] = inputs[port].clone()
                other[port][image] += inputs[port].abs().max()
        before, after = compute(inputs)[name], compute(other)[name]
        return float((after.double() - before.double()).norm() / before.double().norm())

    expected = changed_by(1, component.run)
    for image in (0, 2):
        if not (change := changed_by(image, run)) <= 0.01 * expected + 1e-6:
            raise ParityError(
                f"{component.name}: image {image}, which nothing may see, changes {name} by {change:.1e}."
            )
    found = changed_by(1, run)
    if not abs(found - expected) <= 0.1 * expected + 1e-3:
        raise ParityError(
            f"{component.name}: the image that is seen changes {name} by {found:.1e} of its length, and in PyTorch "
            f"by {expected:.1e}."
        )


@torch.no_grad()
def check_greedy(llm: Component, run: Run, embed: Callable[[Tensor], Tensor], case: Case, max_tokens: int) -> int:
    """Continue a prompt with the graph and with PyTorch, each from its own tokens.

    Args:
        llm: the language model.
        run: its graph.
        embed: [B, T] ids -> [B, T, C].
        case: B whole documents, nothing cached.
        max_tokens: how many tokens the model has room for.

    Returns:
        How many tokens each document was continued with.

    Raises:
        ParityError: another token where PyTorch's choice was not close.
    """
    num = min(NUM_TOKENS, max_tokens)
    for row in range(len(case.inputs["inputs_embeds"])):
        inputs = row_of(llm, case, row)
        expected, margins = greedy(llm, llm.run, embed, inputs, num)
        found, _ = greedy(llm, run, embed, inputs, num)
        first = next((i for i, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1]), None)
        if first is not None and margins[first] >= LEAST_MARGIN:
            raise ParityError(
                f"llm: after {first} tokens of document {row} the graph writes token {found[first]}, and PyTorch "
                f"{expected[first]}, whose logit is larger by {margins[first]:.2f}; chance ends "
                f"at {LEAST_MARGIN}."
            )
    return num


def greedy(
    llm: Component, run: Run, embed: Callable[[Tensor], Tensor], inputs: Tensors, num_tokens: int
) -> tuple[list[int], list[float]]:
    """The likeliest tokens one after another, and the difference of each one's logit to the second largest."""
    tokens: list[int] = []
    margins: list[float] = []
    for _ in range(num_tokens):
        outputs = run(inputs)
        best = outputs["logits"][0, 0].topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        length = inputs["write_indices"] + inputs["inputs_embeds"].shape[1]
        past = {
            name: torch.cat([rows, outputs[name.replace("past_", "new_")]], dim=2)
            for name, rows in inputs.items()
            if name.startswith("past_")
        }
        inputs = {
            **inputs,
            "inputs_embeds": embed(torch.tensor([tokens[-1:]])),
            "position_ids": length.unsqueeze(1),
            "write_indices": length,
            "last_token_ids": torch.zeros(1, 1, dtype=torch.int64),
            **({"visible": inputs["visible"][:, -1:]} if "visible" in inputs else {}),
            **past,
        }
    return tokens, margins


def row_of(llm: Component, case: Case, row: int) -> Tensors:
    """One document of a case, without the padding behind its last token."""
    length = int(case.inputs["last_token_ids"][row]) + 1
    chosen = {}
    for name, port in llm.inputs.items():
        tensor = case.inputs[name]
        if port.shape[0] == "batch":
            tensor = tensor[row : row + 1]
            if len(port.shape) > 1 and port.shape[1] == "tokens":
                tensor = tensor[:, :length]
        chosen[name] = tensor
    return chosen


def half_inputs(component: Component, inputs: Tensors) -> dict[str, np.ndarray]:
    """Inputs in the types of the component's ports, for onnxruntime; bfloat16 as rounded float32."""
    arrays = {}
    for name, port in component.inputs.items():
        tensor = inputs[name].to(port.dtype)
        arrays[name] = (tensor.float() if port.dtype == torch.bfloat16 else tensor).numpy()
    return arrays
