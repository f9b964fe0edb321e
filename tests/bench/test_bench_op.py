"""A benchmark must refuse a wrong implementation, and judge a right one by its arithmetic alone."""

from __future__ import annotations

import functools
import sys
import types

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
    assert error_of(peers.peer_op("transformers", WORKLOADS[name].op), name) < bench_op.TOLERANCE[torch.float32]


@pytest.mark.parametrize("peer", ["transformers-compiled", "deformops", "deformops-float32"])
def test_a_peer_that_does_not_run_here_says_why(peer):
    assert peers.why_not(peer, "mmfs_attention", "cpu") == f"{peer} is compared on a GPU only"


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert "pip install --no-deps deformops" in peers.why_not("deformops", "ms_deform_attn", "cuda")
    assert peers.why_not("transformers", "ms_deform_attn", "cuda") is None


def test_deformops_gets_what_it_expects(monkeypatch):
    """The package needs a newer Python than we do; a stand-in takes the call as its documentation has it."""
    taken = []

    def msda(value, shapes, starts, locations, weights, **options):
        taken.append(options)
        assert shapes.tolist() == [[6, 4], [3, 2]]
        assert starts.tolist() == [0, 24]
        return mmfs.ms_deform_attn(value, shapes, locations, weights)

    registry = types.SimpleNamespace(msda=msda, Backend=types.SimpleNamespace(TRITON="triton"))
    monkeypatch.setitem(sys.modules, "deformops", types.ModuleType("deformops"))
    monkeypatch.setitem(sys.modules, "deformops.registry", registry)
    for peer in ("deformops", "deformops-float32"):
        assert error_of(peers.peer_op(peer, "ms_deform_attn"), "detr-encoder") < bench_op.TOLERANCE[torch.float32]
    assert taken == [{}, {"backend": "triton", "fp32acc": True}]


def test_attention_over_all_pixels_is_that_of_its_formula():
    case = WORKLOADS["unet-16-images-4"].at("smoke")
    arguments = case.arguments(torch.float64, "cpu")
    query, value = arguments["attention_logits"][1, 5, 1].flatten(), arguments["value"]
    pixels = value[3:6, :, 1].flatten(0, 1)  # head 1 of the images of row 1
    expected = (pixels[:, : len(query)] @ query / value.shape[-1] ** 0.5).softmax(0) @ pixels
    out = peers.attention_over_all_pixels(**arguments)[1, 5].view(2, -1)[1]
    torch.testing.assert_close(out, expected)


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
