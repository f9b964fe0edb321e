from __future__ import annotations

import pytest
import torch

from bench.workloads import TICK, WORKLOADS, MMFSAttentionWorkload, MSDeformAttnWorkload


def locations_of(case: MMFSAttentionWorkload | MSDeformAttnWorkload) -> torch.Tensor:
    """Every location that the call can sample at, [..., 2]."""
    arguments = case.arguments(torch.float32, "cpu")
    if isinstance(case, MSDeformAttnWorkload):
        return arguments["sampling_locations"].double().flatten(0, -2)
    offsets = arguments["sampling_offsets"][:, :, None] + arguments["offset_table"]  # [B, Q, A, H, P, 2]
    return (arguments["reference_points"][:, :, None, None, None] + offsets).double().flatten(0, -2)


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_sample_lies_on_a_cell_edge_and_float32_places_it_exactly(name):
    """So an error against float64 is the arithmetic of the op and nothing else."""
    case = WORKLOADS[name]
    locations = locations_of(case.at("smoke"))
    for height, width in case.spatial_shapes:
        wh = torch.tensor([width, height])
        pixels = locations * wh - 0.5
        assert (pixels != pixels.floor()).all()
        assert torch.equal((locations.float() * wh.float() - 0.5).double(), pixels)


def test_workloads_have_the_shapes_of_the_models():
    num_pixels = {name: sum(h * w for h, w in case.spatial_shapes) for name, case in WORKLOADS.items()}
    assert {num_pixels[name] for name in WORKLOADS if name.startswith("llm")} == {1344}
    assert {num_pixels[name] for name in WORKLOADS if name.startswith("unet")} == {5440}
    assert num_pixels["detr-encoder"] == WORKLOADS["detr-encoder"].num_queries == 22223


def test_an_interleaved_row_sees_images_as_they_come():
    case = WORKLOADS["llm-prefill-3-images"].at("smoke")  # 2 rows of 12 tokens
    visible = case.arguments(torch.float32, "cpu")["visible"]
    assert visible[0].tolist() == [[0, 1]] * 4 + [[0, 2]] * 4 + [[0, 3]] * 4
    assert torch.equal(visible[1], visible[0] + 3)  # its images follow those of row 0 in the bank


def test_the_cpu_scale_keeps_the_layout():
    for case in WORKLOADS.values():
        small = case.at("cpu")
        for name in ("num_heads", "num_channels", "num_points", "spatial_shapes"):
            assert getattr(small, name) == getattr(case, name)


def test_num_samples_counts_visible_images_only():
    case = WORKLOADS["llm-prefill-3-images"].at("smoke")
    per_image = 2 * 2 * 2  # heads, levels, points
    assert case.num_samples(case.arguments(torch.float32, "cpu")) == 2 * 4 * (1 + 2 + 3) * per_image


@pytest.mark.parametrize("name", ["unet-16-images-4", "detr-encoder", "llm-prefill-3-images"])
def test_locations_spread_as_their_name_says(name):
    case = WORKLOADS[name].at("smoke")
    spread = {}
    for locations in ("trained", "uniform", "concentrated"):
        arguments = case.arguments(torch.float32, "cpu", locations=locations)
        if "sampling_locations" in arguments:
            where = arguments["sampling_locations"]
        else:
            where = arguments["reference_points"][:, :, None, None] + arguments["sampling_offsets"]
        spread[locations] = where
        ticks = where / TICK
        assert torch.equal(ticks, ticks.round())
        assert ticks.remainder(2).eq(1).all(), "never on the edge of a cell"
    assert spread["uniform"].min() > -0.01
    assert spread["uniform"].max() < 1.01
    assert spread["uniform"].std() == pytest.approx(12**-0.5, abs=0.05)
    assert (spread["concentrated"] - 0.5).abs().max() < 0.25
    assert not torch.equal(spread["trained"], spread["uniform"])
