"""What a document will take is measured on models of any length."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.serve.engine.batching import BatchingEngine
from export.serve.engine.forecast import Forecast
from export.serve.engine.limits import EngineLimits
from models import MMInterleaved


def test_a_forecast_is_what_is_read(model: MMInterleaved) -> None:
    forecast = Forecast.measured(model)
    state = model.begin_generation(1)
    assert model.processor is not None
    state.read([[[1, *model.processor.encode_text("a text of some words")]]])
    assert state.logits is not None
    assert state.copied([0]).num_bytes - state.logits.nbytes == forecast.of(state.lengths[0], 0)
    assert forecast.bytes_per_image > 0


@pytest.mark.parametrize("more", [None, 0, 2, 3, 5])
def test_a_model_with_few_places_is_measured_with_fewer(model: MMInterleaved, more: int | None) -> None:
    """One token alone, and as many as an image takes, and a few more."""
    whole, num_visual = Forecast.measured(model), model.config.visual_tokenizer.num_visual_tokens
    limit = 1 if more is None else num_visual + more
    language_model = model.config.language_model
    transformer = {**language_model.transformer, "max_position_embeddings": limit}
    model.config = replace(model.config, language_model=replace(language_model, transformer=transformer))
    found = Forecast.measured(model)
    if limit > 1:
        assert found.bytes_per_token == whole.bytes_per_token
    if more is None or more < 2:
        assert found.bytes_per_image == 0, "none can be read"
    else:
        assert found.bytes_per_image > 0
    BatchingEngine(model, EngineLimits(memory_bytes=1 << 30)).close()
