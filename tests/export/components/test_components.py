import dataclasses
from pathlib import Path

import pytest
import torch

from export.components.all import components_of
from export.components.check_inputs import Case, pack
from export.components.component import Component
from export.store.samples import load_samples
from models import MMInterleaved, MMInterleavedConfig
from models.sequence import attention_mask, gather_context, token_visible
from numerics import assert_equal_up_to_rounding

ALL = [
    "image_tokenizer",
    "mmfs_values_llm",
    "mmfs_values_unet",
    "llm",
    "context_resampler",
    "unet_mmfs",
    "vae_decoder",
]


@pytest.mark.parametrize("name", ALL)
def test_ports_are_what_pytorch_takes_and_gives(components: dict[str, Component], name: str) -> None:
    component = components[name]
    inputs = dict(zip(component.inputs, component.trace_inputs(), strict=True))
    outputs = component.run(inputs)
    sizes: dict[str, int] = {}
    for ports, tensors in ((component.inputs, inputs), (component.outputs, outputs)):
        for port_name, port in ports.items():
            found = tensors[port_name]
            assert found.dtype == port.dtype
            assert len(found.shape) == len(port.shape)
            for axis, size in zip(port.shape, found.shape, strict=True):
                assert (size == axis) if isinstance(axis, int) else sizes.setdefault(axis, size) == size, port_name
    if "2*batch" in sizes:
        assert sizes["2*batch"] == 2 * sizes["batch"]


def test_every_part_has_its_component(unchanged_model: MMInterleaved, components: dict[str, Component]) -> None:
    assert list(components) == ALL
    assert components["llm"].num_synchronizers == len(unchanged_model.language_model.synchronizers) == 2
    assert components["unet_mmfs"].num_synchronizers == len(unchanged_model.image_decoder.unet.synchronizers) == 2


def test_a_model_without_mmfs_has_no_values_and_no_ranges(config: MMInterleavedConfig) -> None:
    components = components_of(MMInterleaved(config.without_mmfs()).eval())
    assert list(components) == [name for name in ALL if not name.startswith("mmfs_values")]
    for name in ("llm", "unet_mmfs"):
        component = components[name]
        assert component.num_synchronizers == 0
        assert not [port for port in component.inputs if port == "visible" or "mmfs" in port]
        outputs = component.run(dict(zip(component.inputs, component.trace_inputs(), strict=True)))
        assert all(tensor.isfinite().all() for tensor in outputs.values())


def test_llm_component_is_the_language_model(
    unchanged_model: MMInterleaved, components: dict[str, Component], cases: dict[str, list[Case]], model_dir: Path
) -> None:
    """Prefill equals the packed forward of training; the last token from the cache equals the prefill."""
    whole, last_token, *_ = cases["llm"]
    batch = pack(unchanged_model, load_samples(model_dir).documents)
    with torch.no_grad():
        tokens, features = unchanged_model.visual_tokenizer(batch.pixel_values)
        hidden = unchanged_model.language_model(
            unchanged_model.embed(batch.input_ids, tokens, batch.image_positions),
            position_ids=batch.position_ids,
            mask=attention_mask(batch),
            values=unchanged_model.language_model.project_values(features),
            visible=token_visible(batch),
        )
    real = batch.document_ids >= 0
    prefill = components["llm"].run(whole.inputs)
    torch.testing.assert_close(prefill["hidden_states"][real], hidden[real], rtol=1e-4, atol=1e-5)
    decode = components["llm"].run(last_token.inputs)
    torch.testing.assert_close(decode["logits"], prefill["logits"], rtol=1e-4, atol=1e-5)


def test_cache_rows_behind_the_valid_ones_do_not_count(
    components: dict[str, Component], cases: dict[str, list[Case]]
) -> None:
    inputs = cases["llm"][1].inputs
    before = components["llm"].run(inputs)["logits"]
    row = int(inputs["write_indices"][0])
    past = inputs["past_key_0"].clone()
    past[0, :, row] += 1e3
    assert_equal_up_to_rounding(components["llm"].run({**inputs, "past_key_0": past})["logits"], before)
    past[0, :, row - 1] += 1e3
    changed = components["llm"].run({**inputs, "past_key_0": past})["logits"]
    assert not torch.allclose(changed[0], before[0], rtol=1e-3)
    assert_equal_up_to_rounding(changed[1:], before[1:])


def test_context_resampler_reverses_what_the_image_decoder_reads_backwards(
    unchanged_model: MMInterleaved, components: dict[str, Component], cases: dict[str, list[Case]], model_dir: Path
) -> None:
    batch = pack(unchanged_model, load_samples(model_dir).documents[:2])
    batch = dataclasses.replace(batch, drawn=torch.tensor([1, 2]))  # the last image of each of the two documents
    inputs = cases["context_resampler"][0].inputs
    both = components["context_resampler"].run({name: tensor[:2] for name, tensor in inputs.items()})
    negative, conditional = both["encoder_hidden_states"].chunk(2)
    with torch.no_grad():
        expected = unchanged_model.image_decoder.condition(*gather_context(inputs["context_hidden"][:2], batch)).tokens
    torch.testing.assert_close(conditional, expected, rtol=1e-4, atol=1e-5)
    assert (negative == unchanged_model.image_decoder.negative_context).all()
