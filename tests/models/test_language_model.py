"""Letters: B sequences, T tokens, N images, S pyramid pixels, F feature width."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from models import MMInterleavedConfig
from models.language_model import LanguageModel
from models.synchronizer import bind
from numerics import assert_equal_up_to_rounding

SHAPES = ((6, 4), (3, 2), (2, 1))
FEATURES = 10


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(MMInterleavedConfig.tiny().language_model, feature_dim=FEATURES, spatial_shapes=SHAPES).eval()


def inputs(*, num_images: int = 2) -> dict:
    embeddings = torch.randn(2, 7, 32)
    features = torch.randn(num_images, sum(h * w for h, w in SHAPES), FEATURES)
    visible = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [0, 2], [1, 2], [0, 2]])
    return {
        "embeddings": embeddings,
        "features": features,
        "visible": visible.clamp(max=num_images).expand(2, -1, -1),
        "position_ids": torch.arange(7).expand(2, -1),
        "mask": torch.ones(7, 7, dtype=torch.bool).tril()[None, None].expand(2, -1, -1, -1),
    }


def run(model: LanguageModel, data: dict) -> torch.Tensor:
    return model(
        data["embeddings"],
        position_ids=data["position_ids"],
        mask=data["mask"],
        values=model.project_values(data["features"]),
        visible=data["visible"],
    )


def test_a_closed_gate_is_the_plain_language_model(model: LanguageModel) -> None:
    data = inputs()
    for synchronizer in model.synchronizers:
        torch.nn.init.zeros_(synchronizer.gate)
    plain = model.decoder(inputs_embeds=data["embeddings"], position_ids=data["position_ids"]).last_hidden_state
    torch.testing.assert_close(run(model, data), plain)


def test_the_skip_adds_the_embeddings_to_the_final_states(model: LanguageModel) -> None:
    data = inputs()
    plain = run(model, data)
    model.config = replace(model.config, embedding_skip=3.0)
    torch.testing.assert_close(run(model, data), plain + 3.0 * data["embeddings"])


def test_mmfs_stands_between_attention_and_feed_forward(model: LanguageModel) -> None:
    """The layer against the block written out: x += attention; x += tanh(alpha) MMFS(x); x += feed-forward."""
    data = inputs()
    layer, synchronizer = model.decoder.layers[0], model.synchronizers[0]
    values = model.project_values(data["features"])
    states = data["embeddings"]
    angles = model.decoder.rotary_emb(states, position_ids=data["position_ids"])
    normed = layer.input_layernorm(states)
    attended, _ = layer.self_attn(normed, position_embeddings=angles, attention_mask=data["mask"])
    states = states + attended
    states = states + synchronizer(states, values[0], data["visible"])
    expected = states + layer.mlp(layer.post_attention_layernorm(states))
    bound = bind(model.synchronizers, values, data["visible"])
    got = layer(data["embeddings"], attention_mask=data["mask"], position_embeddings=angles, synchronizers=bound)
    torch.testing.assert_close(got, expected)


def test_the_host_keeps_its_names(model: LanguageModel) -> None:
    config = AutoConfig.for_model(**MMInterleavedConfig.tiny().language_model.transformer)
    plain = AutoModelForCausalLM.from_config(config)
    assert model.host.state_dict().keys() == plain.state_dict().keys()


def test_every_second_layer_has_a_synchronizer(model: LanguageModel) -> None:
    assert len(model.decoder.layers) == 3
    assert len(model.synchronizers) == 2


def test_only_visible_images_matter(model: LanguageModel) -> None:
    data = inputs()
    before = run(model, data)
    data["features"] = data["features"].clone()
    data["features"][1] += 1  # seen from position 4 on
    after = run(model, data)
    assert_equal_up_to_rounding(after[:, :4], before[:, :4])
    assert ((after[:, 4:] - before[:, 4:]).abs().amax(-1) > 1e-5).all()


def test_the_levels_that_the_language_model_samples(model: LanguageModel) -> None:
    data = inputs()
    before = run(model, data)
    data["features"] = data["features"].clone()
    data["features"][:, :24] += 1  # level 0 belongs to the U-Net alone
    assert_equal_up_to_rounding(run(model, data), before)


def test_reading_in_pieces_with_a_cache_equals_reading_at_once(model: LanguageModel) -> None:
    data = inputs()
    whole = run(model, data)
    values, cache, pieces = model.project_values(data["features"]), DynamicCache(), []
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        pieces.append(
            model(
                data["embeddings"][:, start:stop],
                position_ids=data["position_ids"][:, start:stop],
                mask=data["mask"][:, :, start:stop, :stop],
                values=values,
                visible=data["visible"][:, start:stop],
                cache=cache,
            )
        )
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-5, atol=1e-6)


def test_without_images_and_without_mmfs(model: LanguageModel) -> None:
    data = inputs(num_images=0)
    assert run(model, data).isfinite().all()
    config = MMInterleavedConfig.tiny().without_mmfs().language_model
    bare = LanguageModel(config, feature_dim=FEATURES, spatial_shapes=SHAPES)
    assert bare.project_values(data["features"]) == []
    assert run(bare, data).isfinite().all()


def test_gradients_reach_every_parameter(model: LanguageModel) -> None:
    model.logits(run(model, inputs())).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    # The word embeddings are not used here; a null value's gradient exists wherever null does.
    assert without == ["host.model.embed_tokens.weight"]
