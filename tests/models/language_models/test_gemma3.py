from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models.language_models.gemma3 import Gemma3Host
from tiny_snapshots import language_model_settings


def host_of(**changes: object) -> Gemma3Host:
    config = AutoConfig.for_model("gemma3_text", **{**language_model_settings("gemma3_text"), **changes})
    return Gemma3Host(AutoModelForCausalLM.from_config(config))


@torch.no_grad()
def test_embeddings_are_scaled_on_their_way_in() -> None:
    host = host_of()
    table, ids = host.model.get_input_embeddings(), torch.tensor([3, 7])
    torch.testing.assert_close(table.weight[ids] * host.embedding_scale, table(ids))
    assert host.embedding_scale == pytest.approx(32**0.5)


def test_what_would_be_computed_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match="attends in both directions"):
        host_of(use_bidirectional_attention=True)
    with pytest.raises(ValueError, match=r"final_logit_softcapping 30\.0"):
        host_of(final_logit_softcapping=30.0)
