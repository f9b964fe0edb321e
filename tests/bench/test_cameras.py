"""Lists of images say what BEVFormer's spatial cross-attention computes, in both ways in which models compute it."""

from __future__ import annotations

import functools

import pytest
import torch

import mmfs
from bench import bench_cameras, cameras, measure
from bench.bench_op import checked_queries, results
from op_cases import Case

NAME = "bevformer-2-of-6-cameras"
SMOKE = cameras.WORKLOADS[NAME].at("smoke")


def camera_case() -> Case:
    arguments = SMOKE.arguments(torch.float64, "cpu")
    tensors = {name: arguments.pop(name).double() for name in SMOKE.differentiated}
    return Case(tensors, arguments)


def test_two_of_six_cameras_see_every_cell():
    lists, points = cameras.project(12)
    assert (lists >= 0).sum(1).eq(2).all()
    assert lists.amax(0).tolist() == [0, 1, 2, 3, 4, 5]
    x = points[..., 0]
    assert ((x > 0) & (x < 1)).all(2).eq(lists >= 0).all(), "a cell is seen where it lies between the image's edges"


@pytest.mark.parametrize("peer", cameras.PEERS)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_outputs_and_gradients_are_those_of_both_ways(peer, backend):
    case = camera_case()
    lists = case.rest["image_indices"]
    lists[0, 3] = -1  # a cell that no camera sees
    lists[0, 7, 1:] = -1  # and one that at most one camera sees
    found = case.run(functools.partial(mmfs.mmfs_attention, backend=backend))
    expected = case.run(cameras.PEERS[peer])
    assert found["output"][0, 3].eq(0).all()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])


def error_of(op) -> float:
    found = results(op, SMOKE, SMOKE.arguments(torch.float32, "cpu"), checked_queries(SMOKE, "cpu"), backward=True)
    return measure.worst_error(found, bench_cameras.exact_results(NAME, "smoke", torch.float32, "cpu"))


@pytest.mark.parametrize("peer", cameras.PEERS)
def test_the_benchmark_judges_right_ones_by_their_arithmetic_and_refuses_wrong_ones(peer):
    assert error_of(cameras.PEERS[peer]) < bench_cameras.TOLERANCE[torch.float32]

    def without_the_last_camera(*, image_indices, **others):
        return cameras.PEERS[peer](image_indices=torch.where(image_indices == 5, -1, image_indices), **others)

    assert error_of(without_the_last_camera) > 0.1
