from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models.component_configs import LanguageModelConfig
from models.language_models.phi3 import Phi3Host
from tiny_snapshots import language_model_settings

LONG_ROPE = {
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "short_factor": [1.0, 1.5],
        "long_factor": [2.0, 8.0],
        "original_max_position_embeddings": 16,
        "factor": 16.0,
    },
}


@torch.no_grad()
def test_the_short_set_of_frequencies_counts_and_documents_are_that_long() -> None:
    torch.manual_seed(0)
    settings = {**language_model_settings("phi3"), "sliding_window": None, **LONG_ROPE}
    config = AutoConfig.for_model("phi3", **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    short, long = torch.randint(2, 200, (1, 16)), torch.randint(2, 200, (1, 17))
    alone, alone_long = model(short).logits, model(long).logits
    model(short)  # transformers goes back to the short set
    Phi3Host(model)

    torch.testing.assert_close(model(short).logits, alone)
    prefix = model(long[:, :16]).logits
    torch.testing.assert_close(model(long).logits[:, :16], prefix)
    assert (alone_long[:, :16] - prefix).abs().max() > 1e-3  # alone, one token more changes what all others read
    assert LanguageModelConfig({"model_type": "phi3", **config.to_dict()}).max_tokens == 16


def test_without_a_second_set_the_limit_is_the_models_own() -> None:
    settings = AutoConfig.for_model("phi3", **language_model_settings("phi3")).to_dict()
    assert LanguageModelConfig(settings).max_tokens == 256
    assert LanguageModelConfig({"model_type": "llama"}).max_tokens is None
