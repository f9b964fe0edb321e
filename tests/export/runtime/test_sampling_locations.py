"""An exported model tells where it looked, as the model does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from export.runtime.session import Session
from export.trt import main
from models import MMInterleaved
from models.generation.query_locations import QueryLocations
from models.generation.sampling_locations import SamplingLocations


def picture(seed: int) -> Image.Image:
    pixels = torch.randint(0, 256, (40, 48, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


DOCUMENTS: list[list[Any]] = [[picture(1), "one", picture(2), " two"], ["draw"]]
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 4,
    "max_new_images": 2,
    "num_inference_steps": 3,
    "image_guidance_scale": 1.5,
    "sampling_locations": True,
    "sampling_locations_steps": [1, -1],
}


def assert_same(looked: QueryLocations, expected: QueryLocations) -> None:
    assert (looked.layers, looked.images) == (expected.layers, expected.images)
    for field in ("sampling_locations", "attention_weights", "null_weights"):
        torch.testing.assert_close(getattr(looked, field), getattr(expected, field), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def check_session(session: Session, model: MMInterleaved) -> None:
    num_drawn_seeing_images = 0
    for mode in ("auto", "image"):
        results = session.generate(DOCUMENTS, mode=mode, **OPTIONS)
        for result, expected in zip(results, model.generate(DOCUMENTS, mode=mode, **OPTIONS), strict=True):
            looked, true = result.sampling_locations, expected.sampling_locations
            assert isinstance(looked, SamplingLocations)
            assert len(looked.ids) > 0
            assert looked.ids == true.ids
            for index in range(len(true.ids)):
                assert_same(looked.of_token(index), true.of_token(index))
            for number in range(len(true.drawn)):
                num_drawn_seeing_images += bool(true.of_pixel(number, 0, 0).images)
                for step in (1, 3):
                    assert_same(looked.of_pixel(number, 0.2, 0.9, step), true.of_pixel(number, 0.2, 0.9, step))
    assert num_drawn_seeing_images >= 3


def test_components_in_pytorch_tell_what_the_model_tells(unchanged_model: MMInterleaved) -> None:
    check_session(Session.of(unchanged_model, device="cpu", sampling_locations=True), unchanged_model)


@torch.no_grad()
def test_documents_that_join_are_recorded_too_and_forget_with_their_tokens(unchanged_model: MMInterleaved) -> None:
    session = Session.of(unchanged_model, device="cpu", sampling_locations=True)
    state, guest = session.begin_generation(1), session.begin_generation(1)
    for one in (state, guest):
        one.read([[[1, 5]]])
    guest.record_sampling()
    state.join(guest)
    state.read([[[7]], [[8]]])
    assert None not in state.queries
    state.crop(1, 2, 0)
    assert state.queries[0] is not None
    assert state.queries[1] is None, "it was of a token that is forgotten"


def test_what_was_made_without_refuses_with_the_way_out(unchanged_model: MMInterleaved, exported: Path) -> None:
    with pytest.raises(ValueError, match=r"Session.of\(model, sampling_locations=True\)"):
        Session.of(unchanged_model, device="cpu").generate(["a"], sampling_locations=True)
    with pytest.raises(ValueError, match=r"exported without --sampling-locations.* --sampling-locations"):
        Session.open(exported, "ort").generate(["a"], sampling_locations=True)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--kv-cache", "ort", "--llm-weights", "int8"]], ids=["split", "in-place-int8"])
def test_an_export_tells_what_the_model_tells(
    unchanged_model: MMInterleaved, model_dir: Path, tmp_path: Path, more: list[str]
) -> None:
    out = tmp_path / "export"
    assert main([str(model_dir), "--out", str(out), "--sampling-locations", *more]) == 0
    session = Session.open(out, "ort")
    if not more:
        check_session(session, unchanged_model)
    result = session.generate(DOCUMENTS[0], mode="text", max_new_tokens=3, sampling_locations=True)
    assert result.sampling_locations.of_token(2).images == (0, 1)
