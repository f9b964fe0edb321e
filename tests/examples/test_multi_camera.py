"""examples/multi_camera.py: its projection is right, its one call equals a loop over cameras, and it learns."""

from __future__ import annotations

import math

import pytest
import torch

from examples import multi_camera
from examples.multi_camera import NUM_CAMERAS, SpatialCrossAttention, project, seen


def test_a_point_on_a_cameras_axis_is_in_the_middle_of_its_image_alone() -> None:
    for number in range(NUM_CAMERAS):
        turn = number * 2 * math.pi / NUM_CAMERAS
        ahead = torch.tensor([[5 * math.cos(turn), 5 * math.sin(turn), multi_camera.CAMERA_HEIGHT_M]])
        places, depths = project(ahead)
        assert seen(places, depths)[:, 0].tolist() == [camera == number for camera in range(NUM_CAMERAS)]
        torch.testing.assert_close(places[number, 0], torch.tensor([0.5, 0.5]))
        torch.testing.assert_close(depths[number], torch.tensor([5.0]))


def test_what_is_to_the_left_and_low_is_left_and_low_in_the_image() -> None:
    places, _ = project(torch.tensor([[5.0, 1.0, 0.0]]))
    assert places[0, 0, 0] < 0.5 < places[0, 0, 1]


def test_one_call_equals_a_loop_over_cameras_and_heights() -> None:
    torch.manual_seed(0)
    cross = SpatialCrossAttention(multi_camera.WIDTH, [(4, 8), (2, 4)]).double()
    torch.nn.init.normal_(cross.attend.sampling_offsets.weight, std=0.3)
    torch.nn.init.normal_(cross.attend.attention_weights.weight)
    torch.nn.init.normal_(cross.attend.output_proj.bias)
    cells = multi_camera.CELLS**2
    queries = torch.randn(2, cells, multi_camera.WIDTH, dtype=torch.float64)
    features = torch.randn(2, NUM_CAMERAS, 40, multi_camera.WIDTH, dtype=torch.float64)

    total, count = torch.zeros_like(queries), torch.zeros(cells, 1, dtype=torch.float64)
    alone = torch.tensor([0, 1])
    for height in multi_camera.HEIGHTS_M:
        anchors = torch.nn.functional.pad(multi_camera.cell_centres(), (0, 1), value=height)
        places, depths = project(anchors)
        for camera, sees in enumerate(seen(places, depths)):
            count[sees] += 1
            for scene in range(2):
                found = cross.attend(
                    queries[scene : scene + 1, sees],
                    places[camera, sees],
                    alone.expand(1, int(sees.sum()), 2),
                    features=features[scene, camera : camera + 1],
                )
                total[scene, sees] += found[0]
    assert (count == 0).any(), "some cells are seen by no camera"
    mean = torch.where(count == 0, cross.attend.output_proj.bias, total / count.clamp(min=1))
    torch.testing.assert_close(cross(queries, features), mean)


@pytest.mark.slow
def test_it_learns_where_the_ground_is_occupied() -> None:
    precision, chance = multi_camera.main()
    assert chance < 0.05
    assert precision > 0.6
