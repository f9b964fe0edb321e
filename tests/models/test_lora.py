"""Adapters of the language model: the same model merged and apart."""

from __future__ import annotations

import pytest
import torch

from models import MMInterleaved, MMInterleavedConfig
from models.lora import ADAPTER_FOLDER, add_lora, merge_lora, tensors_to_save
from models.lora_config import LoraConfig
from models.stored_weights import StoredWeights
from numerics import FLOAT32_ROUNDING
from trainer.data.config import DataConfig
from trainer.data.stream import Stream

pytest.importorskip("peft")


@pytest.fixture
def batch():
    data = DataConfig(num_rows=1, row_tokens=96, num_concepts=12, num_sprites=3)
    return Stream(data, MMInterleavedConfig.tiny(), seed=0)(0)


def adapted(**options) -> MMInterleaved:
    """A model whose adapters do something."""
    torch.manual_seed(0)
    model = MMInterleaved(MMInterleavedConfig.tiny()).eval()
    add_lora(model, LoraConfig(rank=4, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_()
    return model


@torch.no_grad()
def loss(model: MMInterleaved, batch) -> float:
    return float(model(batch).loss_text)


def test_new_adapters_change_nothing_and_only_they_learn_in_the_host(batch):
    torch.manual_seed(0)
    model = MMInterleaved(MMInterleavedConfig.tiny()).eval()
    before = loss(model, batch)
    add_lora(model, LoraConfig(rank=4))
    assert loss(model, batch) == pytest.approx(before, rel=FLOAT32_ROUNDING)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    in_host = [name for name in trainable if name.startswith("language_model.host.")]
    assert len(in_host) == 2 * 4 * 3  # A and B of four matrices in three layers
    assert all(".lora_" in name for name in in_host)
    assert any(name.startswith("language_model.synchronizers.") for name in trainable)
    model(batch).loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if ".lora_B" in n)
    assert all(p.grad is not None for n, p in model.named_parameters() if "synchronizers" in n and n.endswith("gate"))


@pytest.mark.parametrize("merge", [True, False])
def test_a_saved_model_computes_what_the_trained_one_did(batch, tmp_path, merge):
    model = adapted(merge=merge)
    plain = MMInterleaved(MMInterleavedConfig.tiny())
    expected = loss(model, batch)
    model.save_pretrained(tmp_path)
    assert (tmp_path / ADAPTER_FOLDER).exists() != merge
    again = MMInterleaved.from_pretrained(tmp_path)
    assert loss(again, batch) == pytest.approx(expected, rel=FLOAT32_ROUNDING)
    assert (again.state_dict().keys() == plain.state_dict().keys()) == merge
    merge_lora(again)
    assert again.state_dict().keys() == plain.state_dict().keys()
    assert loss(again, batch) == pytest.approx(expected, rel=FLOAT32_ROUNDING)
    assert loss(model, batch) == pytest.approx(expected, rel=FLOAT32_ROUNDING), "saving took nothing from it"


@pytest.mark.parametrize("merge", [True, False])
def test_a_saved_model_is_read_in_another_type(batch, tmp_path, merge):
    model = adapted(merge=merge)
    model.save_pretrained(tmp_path)
    again = MMInterleaved.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    assert (again.lora is None) == merge
    stored = MMInterleaved.from_pretrained(tmp_path).state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, stored[name].to(tensor.dtype)), name
    assert loss(again, batch) == pytest.approx(loss(model, batch), rel=0.05)


def test_weights_replace_those_below_adapters(batch, tmp_path):
    """`load_weights` knows matrices by the names of a model without adapters; the adapters stay."""
    model, other = adapted(merge=False), MMInterleaved(MMInterleavedConfig.tiny()).eval()
    other.save_pretrained(tmp_path)
    before = {name: t.clone() for name, t in model.state_dict().items() if ".lora_" in name}
    model.load_weights(StoredWeights(tmp_path))
    state, saved = model.state_dict(), tensors_to_save(model)
    assert before
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert saved.keys() == other.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in other.state_dict().items())
    with_adapters = loss(model, batch)
    assert with_adapters != pytest.approx(loss(other, batch), abs=1e-3)
    model.load_weights(StoredWeights(tmp_path), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert loss(model, batch) == pytest.approx(with_adapters, rel=0.05)


def test_what_cannot_be_is_told(tmp_path):
    model = adapted(merge=False)
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(model, LoraConfig())
    with pytest.raises(ValueError, match=r"No matrix of the language model is called query; expected .*'q_proj'"):
        add_lora(MMInterleaved(MMInterleavedConfig.tiny()), LoraConfig(targets=("query",)))
    with pytest.raises(ValueError, match="a rank of 1 or more"):
        LoraConfig(rank=0)
    model.save_pretrained(tmp_path)
    settings = tmp_path / ADAPTER_FOLDER / "mm_interleaved_lora.json"
    settings.write_text(settings.read_text().replace('"rank": 4', '"rank": 5'))
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"has no adapters of rank 5, as mm_interleaved_lora.json says"):
        MMInterleaved.from_pretrained(tmp_path)
    settings.write_text(settings.read_text().replace('"rank": 5', '"rank": 4').replace('"q_proj",', ""))
    with pytest.raises(ValueError, match="does not fit the language model"):
        MMInterleaved.from_pretrained(tmp_path)


@torch.no_grad()
def adapt_synchronizers(model: MMInterleaved) -> None:
    """As peft does it, from outside."""
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=r".*\.mmfs\..*proj", r=4, init_lora_weights=False)
    peft.inject_adapter_in_model(settings, model)


@torch.no_grad()
def test_adapters_of_the_synchronizers_count_when_reading_too():
    """Apart, merged, and as the weights that they are then: the layer itself and the folded one agree."""
    torch.manual_seed(0)
    model = MMInterleaved(MMInterleavedConfig.tiny()).eval()
    document = [[1, 3], torch.rand(3, 32, 32), [9, 10, 11]]

    def logits() -> torch.Tensor:
        state = model.begin_generation(1)
        state.read([document])
        assert state.logits is not None
        return state.logits

    before = logits()
    adapt_synchronizers(model)
    apart = logits()
    assert float((apart - before).abs().max()) > 1e-3
    merge_lora_of(model)
    assert None not in model.language_model.fold()
    torch.testing.assert_close(logits(), apart, rtol=1e-4, atol=1e-4)


def merge_lora_of(model: MMInterleaved) -> None:
    for name, layer in [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "lora_A")]:
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())


def test_adapters_that_would_not_be_saved_are_refused(tmp_path):
    model = adapted(merge=False)
    adapt_synchronizers(model)
    with pytest.raises(ValueError, match=r"adapters outside .* \d+ tensors.* merge_and_unload"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    other = MMInterleaved(MMInterleavedConfig.tiny())
    adapt_synchronizers(other)
    with pytest.raises(ValueError, match="adapters outside"):
        other.save_pretrained(tmp_path)
