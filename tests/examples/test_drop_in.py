"""examples/drop_in.py: four models of transformers compute the same with mmfs."""

from __future__ import annotations

import pytest

import mmfs.layer
from examples import drop_in
from mmfs.transformers_models import pixel_decoder

OUTPUTS, GRADIENTS = 1e-12, 1e-6
"""Tolerances in float64, relative to the largest element of each tensor. Both sides add the same terms in another
order: outputs differ by 1e-15, gradients, which pass through norms of nearly constant features, by up to 3e-9."""


@pytest.mark.slow
def test_four_models_of_transformers_compute_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    results = drop_in.main(rounds=1)
    replaced = {result.name: result.num_layers for result in results}
    assert replaced == {"Deformable DETR": 4, "Grounding DINO": 4, "RT-DETR": 3, "Mask2Former": 2}
    for result in results:
        assert result.output_error < OUTPUTS
        assert result.gradient_error < GRADIENTS
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(replaced)


@pytest.mark.parametrize("make", [drop_in.rt_detr, drop_in.mask2former], ids=["module", "function"])
def test_a_difference_would_be_seen(make, monkeypatch: pytest.MonkeyPatch) -> None:
    right = mmfs.ms_deform_attn
    for module in (mmfs.layer, pixel_decoder):
        monkeypatch.setattr(module, "ms_deform_attn", lambda *given, **named: right(*given, **named) * 1.001)
    result = drop_in.compare(make(), rounds=1)
    assert result.output_error > OUTPUTS
    assert result.gradient_error > GRADIENTS
