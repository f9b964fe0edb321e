"""Where MMFS goes into a decoder layer, and which tokens a sliding window leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from models.component_configs import LanguageModelConfig
from models.config import MMInterleavedConfig
from models.language_model import LanguageModel
from models.language_models.families import host_class
from tiny_snapshots import LANGUAGE_MODELS, language_model_settings

SHAPES = ((8, 8), (4, 4), (2, 2), (1, 1))
FEATURE_DIM = 16
NEXT_NORM = {"gemma3_text": "pre_feedforward_layernorm"}
"""Where it is not called post_attention_layernorm."""


def settings_of(kind: str, **changes: Any) -> LanguageModelConfig:
    mmfs = MMInterleavedConfig.tiny().language_model.mmfs
    transformer = {"model_type": kind, **language_model_settings(kind), **changes}
    return LanguageModelConfig(transformer, mmfs=mmfs, mmfs_every=2, gate_init=0.5)


def make(kind: str, **changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(settings_of(kind, **changes), feature_dim=FEATURE_DIM, spatial_shapes=SHAPES)


def run(model: LanguageModel, num_tokens: int = 12) -> Tensor:
    return model(
        torch.randn(2, num_tokens, 32),
        position_ids=torch.arange(num_tokens).expand(2, -1),
        mask=torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril().expand(2, 1, -1, -1),
        values=model.project_values(torch.randn(3, 85, FEATURE_DIM)),
        visible=torch.tensor([0, 3]).expand(2, num_tokens, 2),
    )


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@torch.no_grad()
def test_mmfs_reads_the_state_after_attention_and_adds_to_it(kind: str) -> None:
    """What goes into the feed-forward's norm is what MMFS read plus what it said; dropout is on where a family has
    it."""
    model = make(kind, **({"resid_pdrop": 0.5} if kind == "phi3" else {})).train()
    queries: list[Tensor] = []
    added: list[Tensor] = []
    sums: list[Tensor] = []
    model.synchronizers[1].register_forward_pre_hook(lambda _, args: queries.append(args[0]))
    model.synchronizers[1].register_forward_hook(lambda _, __, output: added.append(output))
    norm = model.decoder.layers[2].get_submodule(NEXT_NORM.get(kind, "post_attention_layernorm"))
    norm.register_forward_pre_hook(lambda _, args: sums.append(args[0]))
    run(model)

    assert len(queries) == len(added) == len(sums) == 1
    torch.testing.assert_close(queries[0] + added[0], sums[0])
    assert added[0].abs().max() > 1e-3


def test_a_layer_without_the_expected_places_is_refused_by_name() -> None:
    config = AutoConfig.for_model("llama", **language_model_settings("llama"))
    host = AutoModelForCausalLM.from_config(config)
    host.model.layers[1].attention = host.model.layers[1].self_attn
    del host.model.layers[1].self_attn
    with pytest.raises(ValueError, match=r"Layer 1 .* a LlamaDecoderLayer, has no self_attn; it has mlp, .*attention"):
        LanguageModel(settings_of("llama"), feature_dim=FEATURE_DIM, spatial_shapes=SHAPES, host=host)


def test_a_window_counts_the_tokens_that_a_token_may_see() -> None:
    """Neither another document of the row nor a gap uses it up."""
    host = make("mistral").family  # a window of 4
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    mask[:, 2:4] = False  # columns that nobody sees
    windowed = host.masks(mask[None, None])
    assert isinstance(windowed, Tensor)
    assert windowed[0, 0, 7].nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert windowed[0, 0, 5].nonzero().flatten().tolist() == [0, 1, 4, 5]


def test_layers_with_and_without_a_window_get_their_own_masks() -> None:
    host, mask = make("gemma3_text").family, torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    masks = host.masks(mask)
    assert isinstance(masks, dict)
    assert torch.equal(masks["full_attention"], mask)
    assert masks["sliding_attention"].sum(-1).max() == 4


def test_a_graph_holds_the_window_even_if_the_traced_example_fits_into_it() -> None:
    class Masks(nn.Module):
        def forward(self, mask: Tensor) -> Tensor:
            windowed = host.masks(mask)
            assert isinstance(windowed, Tensor)
            return windowed

    host = make("mistral").family
    length = torch.export.Dim("length")
    example = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    program = torch.export.export(Masks(), (example,), dynamic_shapes=({2: length, 3: length},))
    longer = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    assert torch.equal(program.module()(longer), host.masks(longer))


def test_an_unknown_family_is_refused_with_those_that_work() -> None:
    with pytest.raises(ValueError, match=r"config holds a model of type 'gpt2'\. Expected .* gemma3_text or phi3\."):
        host_class("gpt2", "config")
    with pytest.raises(ValueError, match="here is a Gemma 3 with a vision encoder of its own"):
        host_class("gemma3", "here")
