"""What passes the gates is in test_precision.py; here is what does not."""

import pytest
import torch
from torch import nn

from export.components.check_inputs import Case
from export.components.component import Component, Port
from export.validate.half_precision import Run, Tensors, check_greedy, check_half, check_seeing, greedy, row_of
from export.validate.parity import ParityError

FLOAT = torch.float32


class Doubled(nn.Module):
    """x -> 2 x, with a weight to be rounded."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8) * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight)


def doubled(scale: float = 2.0) -> Component:
    return Component("part", Doubled(scale), {"x": Port(FLOAT, ("batch", 8))}, {"y": Port(FLOAT, ("batch", 8))})


CASE = Case("numbers", {"x": torch.linspace(1, 2, 32).view(4, 8)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda y: y * 1.01,
            r"part, case 'numbers': output y is off by 1\.0e-02 of its length; PyTorch in",
        ),
        (lambda y: y[:1], r"has the shape \[1, 8\] where PyTorch has \[4, 8\]"),
        (lambda y: y / 0, "is not finite"),
        (lambda y: torch.full_like(y, torch.nan), "is not finite"),
    ],
    ids=["off", "shape", "infinite", "nan"],
)
def test_what_is_wrong_is_refused(change, message: str) -> None:
    component = doubled()
    with pytest.raises(ParityError, match=message):
        check_half(component, lambda inputs: {"y": change(component.run(inputs)["y"])}, [CASE], "float16")


def test_what_is_as_good_as_pytorch_passes() -> None:
    component = doubled()
    rounded: Run = lambda inputs: {"y": component.run(inputs)["y"].half().float()}  # noqa: E731
    (result,) = check_half(component, rounded, [CASE], "float16")
    assert 0 < result.worst < 5e-4


def test_zero_has_to_stay_zero() -> None:
    component, nothing = doubled(), Case("zeros", {"x": torch.zeros(4, 8)})
    assert check_half(component, component.run, [nothing], "bfloat16")[0].worst == 0
    with pytest.raises(ParityError, match="is not zero where PyTorch's is"):
        check_half(component, lambda inputs: {"y": torch.full((4, 8), 1e-3)}, [nothing], "bfloat16")


def test_activations_near_the_end_of_float16_are_refused() -> None:
    component = doubled(scale=20_000.0)
    with pytest.raises(ParityError, match=r"an activation reaches 40000, .* Export it with --precision bfloat16"):
        check_half(component, component.run, [CASE], "float16")
    check_half(component, component.run, [CASE], "bfloat16")


def test_a_graph_that_looks_elsewhere_is_refused(
    components: dict[str, Component], cases: dict[str, list[Case]]
) -> None:
    component, case = components["unet_mmfs"], cases["unet_mmfs"][0]
    check_seeing(component, component.run, case)

    def blind(inputs: Tensors) -> Tensors:
        return component.run({**inputs, "visible": torch.zeros_like(inputs["visible"])})

    def careless(inputs: Tensors) -> Tensors:
        return component.run({**inputs, "visible": inputs["visible"] - torch.tensor([1, 0])})

    with pytest.raises(
        ParityError, match=r"the image that is seen changes model_output by (0\.0e\+00|\S+e-0[6-9]) of its"
    ):
        check_seeing(component, blind, case)
    with pytest.raises(ParityError, match="image 0, which nothing may see, changes model_output"):
        check_seeing(component, careless, case)


def test_greedy_is_what_the_model_writes(
    components: dict[str, Component], cases: dict[str, list[Case]], unchanged_model
) -> None:
    llm, embed = components["llm"], unchanged_model.language_model.embed
    words = cases["llm"][3].inputs
    tokens, margins = greedy(llm, llm.run, embed, words, 5)
    prompt = words["inputs_embeds"]
    longer = torch.cat([prompt, embed(torch.tensor([tokens[:4]]))], dim=1)
    length = longer.shape[1]
    whole = llm.run(
        {
            **words,
            "inputs_embeds": longer,
            "position_ids": torch.arange(length).unsqueeze(0),
            "visible": torch.zeros(1, length, 2, dtype=torch.int64),
            "last_token_ids": torch.tensor([[length - 1]]),
        }
    )["logits"][0, 0]
    assert int(whole.argmax()) == tokens[4]
    best = whole.topk(2).values
    assert margins[4] == pytest.approx(float(best[0] - best[1]), abs=1e-4)


def test_another_token_is_refused_unless_it_was_close(
    components: dict[str, Component], cases: dict[str, list[Case]], unchanged_model
) -> None:
    llm, embed, case = components["llm"], unchanged_model.language_model.embed, cases["llm"][0]

    def swapped(inputs: Tensors) -> Tensors:
        outputs = llm.run(inputs)
        best = outputs["logits"][:, 0].argmax(-1)
        outputs["logits"][torch.arange(len(best)), 0, best] -= 100.0
        return outputs

    assert check_greedy(llm, llm.run, embed, case, 2) == 2
    margins = [greedy(llm, llm.run, embed, row_of(llm, case, row), 1)[1][0] for row in range(3)]
    assert max(margins) > 0.1
    with pytest.raises(ParityError, match=r"llm: after 0 tokens of document . the graph writes token"):
        check_greedy(llm, swapped, embed, case, 2)
