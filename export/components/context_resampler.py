"""`context_resampler`: language-model states to what the U-Net is conditioned on, for both halves of classifier-free
guidance.

Letters: B images to draw, T context tokens, C language-model width, n tokens of the condition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from export.components.check_inputs import Case, CheckInputs
from export.components.component import FLOAT, INT, Component, Port
from export.components.spec import ComponentSpec
from models.batch import Batch
from models.image_decoders.condition import Condition

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved


class ContextResampler(nn.Module):
    """Language-model states to the U-Net's conditions for both halves of classifier-free guidance."""

    def __init__(self, model: MMInterleaved) -> None:
        super().__init__()
        self.image_decoder = model.image_decoder

    def forward(self, context_hidden: Tensor, context_length: Tensor) -> tuple[Tensor, ...]:
        """The states in reading order; they are reversed here, because the image decoder counts from the nearest.

        Args:
            context_hidden: [B, T, C]; row i ends with its `<BoI>` at `context_length[i] - 1`.
            context_length: [B] int64.

        Returns:
            The tensors of a condition, as `Condition.named` orders them: encoder_hidden_states [2B, n,
            cross_attention_dim], of SDXL text_embeds [2B, P] and time_ids [2B, 6] too. In each the negative condition
            comes B times, then the conditional ones.
        """
        back = torch.arange(context_hidden.shape[1], device=context_hidden.device)
        exists = back < context_length.unsqueeze(1)
        columns = (context_length.unsqueeze(1) - 1 - back).clamp(min=0).unsqueeze(-1)
        nearest_first = context_hidden.gather(1, columns.expand(-1, -1, context_hidden.shape[2]))
        conditional = self.image_decoder.condition(nearest_first, exists)
        return tuple(Condition.cat([self.image_decoder.negative(conditional), conditional]).named().values())


def context_resampler(model: MMInterleaved) -> Component:
    """The component of a model."""
    return Component(
        SPEC.name,
        ContextResampler(model),
        inputs={
            "context_hidden": Port(FLOAT, ("batch", "context", model.language_model.hidden_size)),
            "context_length": Port(INT, ("batch",)),
        },
        outputs=condition_ports(model, "2*batch"),
    )


def condition_ports(model: MMInterleaved, axis: str) -> dict[str, Port]:
    """What the U-Net is conditioned on, with rows along an axis of this name."""
    return {name: Port(FLOAT, (axis, *shape)) for name, shape in model.image_decoder.condition_shapes.items()}


def _cases(_component: Component, given: CheckInputs) -> list[Case]:
    hidden = given.outputs_of("llm")["hidden_states"]
    ends = [_end_of_context(given.batch, row) for row in range(given.num_documents)]
    context = {"context_hidden": hidden, "context_length": torch.tensor(ends)}
    alone = {"context_hidden": hidden[:1, : ends[0]], "context_length": torch.tensor(ends[:1])}
    return [Case(f"{given.num_documents} contexts", context), Case("one context", alone)]


def _end_of_context(batch: Batch, row: int) -> int:
    """One past the `<BoI>` of a row's last image; the whole row if it has none."""
    columns = batch.image_positions[batch.image_positions[:, 0] == row, 1]
    return int(columns.max()) if len(columns) else int((batch.document_ids[row] >= 0).sum())


SPEC = ComponentSpec("context_resampler", context_resampler, _cases, float32_ports=frozenset({"time_ids"}))
