"""What a model is compared with has to be the same computation, and do what it is said to do."""

from __future__ import annotations

import itertools

import pytest
import torch

from bench import measure, model_large, model_turns
from bench.model_eq4 import eq4
from bench.model_sides import seconds
from bench.model_turns import Turns, Written
from mmfs import MMFS
from models import MMInterleaved, MMInterleavedConfig

SHAPES = ((5, 3), (2, 2))


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    torch.manual_seed(0)
    return MMInterleaved(MMInterleavedConfig.tiny()).eval()


@pytest.mark.parametrize("null", [True, False])
def test_eq_4_as_written_is_the_layer(null: bool) -> None:
    layer = MMFS(24, 10, spatial_shapes=SHAPES, num_heads=2, num_points=3, value_dim=16, max_age=2, null=null)
    layer.requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.5)
    query, features, centre = torch.randn(1, 4, 24), torch.randn(1, 3, 19, 10), torch.tensor([0.5, 0.25])
    last = torch.tensor([0, 1, 2, 3])
    visible = torch.stack([torch.zeros(4, dtype=torch.int64), last], dim=-1)[None]
    seen = (torch.arange(3) < last[:, None])[None]
    written = eq4(layer, query, centre, seen, features)
    assert measure.relative_error(layer(query, centre, visible, features=features[0]), written) < 1e-5
    layer.age_embedding.mul_(1.01)
    assert measure.relative_error(layer(query, centre, visible, features=features[0]), written) > 1e-4


def test_both_ways_of_writing_turns_write_the_same(model: MMInterleaved) -> None:
    """And one of them encodes each image once, the other in every turn."""
    encoded: list[int] = []
    handle = model.visual_tokenizer.register_forward_pre_hook(lambda _module, args: encoded.append(len(args[0])))
    document = [[1], [model.config.begin_of_image_id], torch.rand(3, 32, 32), [9, 10]]
    turns = Turns(num_turns=3, num_tokens=2, num_inference_steps=2)

    def written(way: object) -> tuple[Written, int]:
        encoded.clear()
        assert callable(way)
        return way(model, document, turns), sum(encoded)

    once, num_once = written(model_turns.write_reading_once)
    again, num_again = written(model_turns.write_reading_again)
    handle.remove()
    assert once.tokens == again.tokens
    assert len(once.tokens) == 6
    assert measure.worst_error(once.images, again.images) < 1e-3
    assert num_once == 3  # the prompt's, and two that are drawn and read
    assert num_again == (1 + 2 + 3) + (2 + 3 + 4)  # to draw, with a grey image in the place of the next


def test_the_large_step_reads_what_it_says() -> None:
    step = model_large.DecodingStep("cpu", tiny=True)
    torch.testing.assert_close(step.with_mmfs(), step.with_mmfs())  # no step leaves anything behind
    torch.testing.assert_close(step.closed(), step.without())
    assert measure.relative_error(step.with_mmfs(), step.without()) > 0.01
    host = sum(weight.nbytes for weight in step.model.decoder.layers.parameters())
    assert host + step.cache.kept.nbytes < step.bytes_read < 2 * (host + step.cache.kept.nbytes)


def test_the_unet_looks_at_its_images() -> None:
    step = model_large.UNetStep("cpu", tiny=True)
    torch.testing.assert_close(step.closed(), step.without())
    assert measure.relative_error(step.with_mmfs(), step.without()) > 1e-3


def test_the_bandwidth_is_bytes_over_the_shortest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()  # every look at the clock is a second
    monkeypatch.setattr("bench.model_sides.time.perf_counter", lambda: float(next(now)))
    assert seconds(lambda: next(now), "cpu") == 2
    assert model_large.bytes_per_s("cpu", 2**20) == 2**20
