"""A benchmark must refuse a wrong implementation, and judge a right one by its arithmetic alone."""

from __future__ import annotations

import functools

import pytest
import torch

import mmfs
from bench import bench_op, measure, peers
from bench.workloads import WORKLOADS

CASES = ["llm-prefill-3-images", "unet-16-images-4", "detr-encoder"]


def error_of(op, name: str) -> float:
    """What bench_op compares with its tolerance, gradients included."""
    case = WORKLOADS[name].at("smoke")
    found = bench_op.results(
        op, case, case.arguments(torch.float32, "cpu"), bench_op.checked_queries(case, "cpu"), backward=True
    )
    return measure.worst_error(found, bench_op.exact_results(name, "smoke", torch.float32, "cpu"))


@pytest.mark.parametrize("name", CASES)
def test_the_peer_computes_the_same_op(name):
    assert error_of(getattr(peers, WORKLOADS[name].op), name) < bench_op.TOLERANCE[torch.float32]


@pytest.mark.parametrize("name", CASES)
def test_a_result_one_percent_off_is_refused(name):
    op = functools.partial(getattr(mmfs, WORKLOADS[name].op), backend="reference")
    assert error_of(lambda **arguments: 1.01 * op(**arguments), name) > bench_op.TOLERANCE[torch.bfloat16] / 8
    assert error_of(lambda **arguments: 1.01 * op(**arguments), name) > bench_op.TOLERANCE[torch.float32]


def test_a_wrong_gradient_alone_is_refused():
    """The output is right, but the value gets half its gradient."""

    def half_gradient(value, **arguments):
        return mmfs.ms_deform_attn(0.5 * value + 0.5 * value.detach(), **arguments)

    assert error_of(half_gradient, "detr-encoder") == pytest.approx(0.5, rel=1e-3)


def test_a_nan_is_refused():
    def nan_gradient(value, **arguments):
        out = mmfs.ms_deform_attn(value, **arguments)
        return out + (value.sum() * 0 + 0.0).sqrt() * 0

    assert error_of(nan_gradient, "detr-encoder") > 1


def test_a_sample_of_the_queries_gives_the_gradients_of_that_sample():
    """Zero incoming gradient outside the sample equals the reference on the sample alone."""
    case = WORKLOADS["unet-16-images-4"].at("smoke")
    arguments = case.arguments(torch.float64, "cpu")
    sample = torch.tensor([0, 5, 11])
    op = functools.partial(mmfs.mmfs_attention, backend="reference")
    whole = bench_op.results(op, case, arguments, sample, backward=True)
    alone = arguments | {name: arguments[name][:, sample] for name in case.per_query}
    assert measure.worst_error(whole, bench_op.results(op, case, alone, torch.arange(3), backward=True)) < 1e-12
