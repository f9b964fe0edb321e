"""What a training step is compared with has to be the same computation, done the way it is said to be."""

from __future__ import annotations

import torch

from bench import measure
from bench.trainer_as_released import RepeatedMMFS, as_released, drawing_all, gradients, train_as_released
from mmfs import MMFS
from models import MMInterleaved, MMInterleavedConfig
from rows import pack_rows

SHAPES = ((5, 3), (2, 2))


def test_repeated_queries_see_what_the_layer_sees() -> None:
    layer = MMFS(24, 10, spatial_shapes=SHAPES, num_heads=2, num_points=3, value_dim=16, max_age=2)
    layer.requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.5)
    query, values = torch.randn(2, 4, 24), layer.project_values(torch.randn(5, 19, 10))
    visible = torch.tensor([[[0, 0], [0, 1], [0, 3], [1, 3]], [[0, 0], [3, 4], [3, 5], [4, 5]]])
    centre = torch.tensor([0.5, 0.25])
    expected = layer(query, centre, visible, values=values)
    repeated = RepeatedMMFS(layer)
    assert measure.relative_error(repeated(query, centre, visible, values=values), expected) < 1e-5
    assert measure.relative_error(repeated(query, centre, visible.clamp(max=2), values=values), expected) > 1e-3
    nothing = torch.zeros_like(visible)
    expected = layer(query, centre, nothing, values=values[:0])
    assert measure.relative_error(repeated(query, centre, nothing, values=values[:0]), expected) < 1e-5


def test_images_without_a_loss_are_drawn_and_teach_nothing() -> None:
    torch.manual_seed(0)
    model = MMInterleaved(MMInterleavedConfig.tiny()).train()
    released = as_released(model)
    batch = pack_rows([[["image", 9, 10, "draw", 11, "draw"]], [[9, 10], ["image", 12, "draw"]]])
    assert len(drawing_all(batch).drawn) == len(batch.pixel_values) > len(batch.drawn)
    model(batch).loss.backward()
    train_as_released(released, batch)
    error = measure.relative_error(gradients(released.parameters()), gradients(model.parameters()))
    assert error < 1e-4
