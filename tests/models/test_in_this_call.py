"""Modules of other libraries that do more in one call: compiled piece by piece, copied, pickled, refused."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from models import MMInterleaved, MMInterleavedConfig
from models.in_this_call import Extended, InThisCall, extend
from models.language_model import LanguageModel
from numerics import FLOAT32_ROUNDING, assert_equal_gradients, assert_equal_up_to_rounding
from rows import pack_rows

# The compiler itself looks there.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

ROWS = [[["image", *range(9, 40), "draw", 11, "draw"]], [[9, 10], ["image", 12, "draw"]]]


@pytest.fixture
def compiler() -> Iterator[None]:
    """With nothing that an earlier test compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss_and_gradients(model: MMInterleaved) -> tuple[float, dict[str, Tensor]]:
    model.train().zero_grad()
    loss = model(pack_rows(ROWS)).loss
    loss.backward()
    named = model.named_parameters()
    return float(loss.detach()), {
        name.replace("_orig_mod.", ""): p.grad.clone() for name, p in named if p.grad is not None
    }


def layers_of_the_language_model(model: MMInterleaved) -> None:
    for layer in model.language_model.decoder.layers:
        layer.compile(backend="eager")


def layers_of_the_language_model_wrapped(model: MMInterleaved) -> None:
    layers = model.language_model.decoder.layers
    for i, layer in enumerate(layers):
        layers[i] = torch.compile(layer, backend="eager")


def the_decoder(model: MMInterleaved) -> None:
    model.language_model.decoder.compile(backend="eager")


def blocks_of_the_unet(model: MMInterleaved) -> None:
    host = model.image_decoder.unet.host
    for block in (*host.down_blocks, host.mid_block, *host.up_blocks):
        block.compile(backend="eager")


def the_unet(model: MMInterleaved) -> None:
    model.image_decoder.unet.host.compile(backend="eager")


def layers_of_the_vision_encoder(model: MMInterleaved) -> None:
    for layer in model.visual_tokenizer.adapter.encoder.layers:
        layer.compile(backend="eager")


def the_synchronizers(model: MMInterleaved) -> None:
    for synchronizer in (*model.language_model.synchronizers, *model.image_decoder.unet.synchronizers):
        synchronizer.compile(backend="eager")


@pytest.mark.parametrize(
    "compile_",
    [
        layers_of_the_language_model,
        layers_of_the_language_model_wrapped,
        the_decoder,
        blocks_of_the_unet,
        pytest.param(the_unet, marks=pytest.mark.slow),
        layers_of_the_vision_encoder,
        the_synchronizers,
    ],
)
def test_compiled_piece_by_piece_it_is_the_same(
    model: MMInterleaved, compiler: None, compile_: Callable[[MMInterleaved], None]
) -> None:
    """Loss and every gradient; the layers have one code, and every second one has a synchronizer."""
    loss, gradients = loss_and_gradients(model)
    compile_(model)
    for _ in range(2):
        again, compiled = loss_and_gradients(model)
        assert again == pytest.approx(loss, rel=FLOAT32_ROUNDING)
        assert_equal_gradients(compiled, gradients)


def test_two_graphs_serve_all_layers(model: MMInterleaved, compiler: None) -> None:
    graphs: list[object] = []

    def count(graph: torch.fx.GraphModule, _inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    for layer in model.language_model.decoder.layers:
        layer.compile(backend=count)
    loss_and_gradients(model)
    assert len(graphs) == 2, "one with MMFS, one without"


@pytest.mark.slow
@torch.no_grad()
def test_compiled_layers_write_the_same(model: MMInterleaved, compiler: None) -> None:
    """With folded layers and a cache."""
    document, candidates = ["is it?", torch.rand(3, 32, 32)], ["yes", "no"]
    expected = [score.log_probability for score in model.score(document, candidates)]
    for layer in model.language_model.decoder.layers:
        layer.compile(backend="eager", dynamic=True)
    found = [score.log_probability for score in model.score(document, candidates)]
    assert found == pytest.approx(expected, rel=FLOAT32_ROUNDING)


@torch.no_grad()
def test_copies_have_their_own_synchronizers(model: MMInterleaved) -> None:
    batch = pack_rows(ROWS)
    expected = model(batch)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert_equal_up_to_rounding(other(batch).loss, expected.loss)
        for synchronizer in other.language_model.synchronizers:
            nn.init.zeros_(synchronizer.gate)
        assert abs(float(other(batch).loss - expected.loss)) > 1e-4
    assert_equal_up_to_rounding(model(batch).loss, expected.loss)


def test_an_extended_module_has_the_name_of_its_class(model: MMInterleaved) -> None:
    layer, host = model.language_model.decoder.layers[0], model.image_decoder.unet.host
    assert (type(layer).__name__, type(host).__name__) == ("LlamaDecoderLayer", "UNet2DConditionModel")
    assert len({type(layer) for layer in model.language_model.decoder.layers}) == 1


def test_a_module_with_a_forward_of_its_own_is_refused(model: MMInterleaved) -> None:
    """accelerate sets one, which calls the forward that it found."""
    config = MMInterleavedConfig.tiny().language_model
    host = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.transformer))
    host.model.layers[1].forward = host.model.layers[1].forward
    with pytest.raises(ValueError, match=r"LlamaDecoderLayer has a forward pass that was set .* without device_map\."):
        LanguageModel(config, feature_dim=8, spatial_shapes=model.visual_tokenizer.spatial_shapes, host=host)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.uses_second = nn.Linear(2, 2), nn.Linear(2, 2), True

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.first(rows)
        return self.second(out) if self.uses_second else out


class Doubled(Extended):
    def forward(self, rows: Tensor) -> Tensor:
        second = self.second
        assert isinstance(second, nn.Module)
        return self.forward_with({"second": InThisCall(second, lambda rows: 2 * second(rows))}, (rows,), {})


def test_a_submodule_that_is_not_called_any_more_is_an_error() -> None:
    pair, rows = Pair(), torch.randn(3, 2)
    expected = 2 * pair(rows)
    extend(pair, Doubled)
    torch.testing.assert_close(pair(rows), expected)
    pair.uses_second = False
    with pytest.raises(RuntimeError, match="forward pass of Pair did not call second, where MMFS is attached"):
        pair(rows)
