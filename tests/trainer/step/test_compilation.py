"""What a run tells of the compiler, and what it says when the compiler fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_blocks import UpBlock2D
from torch import Tensor, nn
from torch.fx import GraphModule

from trainer.errors import UsageError
from trainer.step.compilation import Compilation, compiler_errors_explained, refuse_miscompiled, uncompiled

# The compiler itself looks there.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


class Layer(nn.Module):
    """Of a class of our own, since those of PyTorch are not compiled by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(rows).sin()


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """With nothing that an earlier test compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_graphs_are_told_once() -> None:
    layer, compilation = Layer(), Compilation()
    layer.compile(backend="eager")
    with compilation.watched():
        assert compilation.report() is None
        layer(torch.ones(1, 2))
        assert (compilation.report() or "").startswith("compiled 1 graph in ")
        layer(torch.ones(1, 2))
        assert compilation.report() is None
        with uncompiled():
            layer(torch.ones(4, 2, dtype=torch.float64).float().requires_grad_())
        assert compilation.report() is None


def test_layers_of_one_code_are_told_apart_by_their_hooks() -> None:
    """As those of a decoder: PyTorch by itself would run the second as the first."""
    layers = nn.ModuleList(Layer() for _ in range(2))
    layers[1].get_submodule("linear").register_forward_hook(lambda module, given, output: 2 * output)
    rows = torch.ones(1, 2)
    expected = [layer(rows) for layer in layers]
    with Compilation().watched():
        for layer, result in zip(layers, expected, strict=True):
            layer.compile(backend="eager")
            torch.testing.assert_close(layer(rows), result)


def broken_backend(graph: GraphModule, inputs: list[Tensor]) -> Any:
    raise RuntimeError("no such instruction: vfoo\nmore lines")


def test_an_error_of_the_compiler_is_a_sentence() -> None:
    layer = Layer()
    layer.compile(backend=broken_backend)
    with (
        pytest.raises(UsageError, match=r"could not compile a layer \(BackendCompilerFailed: .*Go on without it, with"),
        compiler_errors_explained(),
    ):
        layer(torch.ones(1, 2))


def test_a_unet_is_not_compiled_for_a_cpu() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(UsageError, match=r"gets wrong on a CPU.* --compile '\[language_model\]'\."):
        refuse_miscompiled(["language_model", "unet"], cpu)
    refuse_miscompiled(["language_model", "vision_encoder"], cpu)
    refuse_miscompiled(["unet"], torch.device("cuda"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own code
def test_why_a_unet_is_not_compiled_for_a_cpu() -> None:
    """Where this fails, PyTorch's compiler has been mended, and `refuse_miscompiled` can go for its new versions."""
    torch.manual_seed(0)
    block = UpBlock2D(8, 16, 16, temb_channels=32, num_layers=1, resnet_groups=4)
    inputs = torch.randn(1, 16, 2, 2), (torch.randn(1, 8, 2, 2),), torch.randn(1, 32)

    def gradient() -> Tensor:
        block.zero_grad()
        block(*inputs).square().mean().backward()
        weights = block.resnets[0].conv1.weight
        assert weights.grad is not None
        return weights.grad.clone()

    expected = gradient()
    block.compile()
    assert float(expected.norm()) > 0.01
    assert float(gradient().norm()) == 0
