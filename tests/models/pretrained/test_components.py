"""Other vision encoders and language models inside a whole model: read, trained, saved, and written with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import MMInterleaved
from models.activation_checkpointing import CheckpointedComponent, enable_activation_checkpointing
from models.generation.torch_state import TorchGenerationState
from models.lora import add_lora, merge_lora
from models.lora_config import LoraConfig
from models.vision_encoders.families import encoder_class
from numerics import assert_equal_gradients, assert_equal_up_to_rounding
from rows import batch_for
from tiny_snapshots import VISION_ENCODERS, like, write_diffusion, write_language_model, write_vision_encoder

ROWS = [[["image", 9, "draw"], [9, "image", 30]], [[40, 50, 60, 70, 80]]]
LANGUAGE_MODELS = ("gemma3_text", "phi3")
LORA_TARGETS = {"gemma3_text": ("q_proj", "o_proj"), "phi3": ("qkv_proj", "o_proj")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("snapshots")
    write_diffusion(folder / "sd1")
    for kind in ("llama", *LANGUAGE_MODELS):
        write_language_model(folder / kind, kind)
    for kind in VISION_ENCODERS:
        write_vision_encoder(folder / kind, kind)
    return folder


def make(folder: Path, *, vision_encoder: str = "clip", language_model: str = "llama") -> MMInterleaved:
    torch.manual_seed(0)
    return MMInterleaved.from_parts(
        vision_encoder=folder / vision_encoder,
        language_model=folder / language_model,
        image_decoder=folder / "sd1",
        like=like(gate=0.3),
    )


def train(model: MMInterleaved, num_steps: int = 6) -> tuple[float, float]:
    """The loss of one batch before and after these steps on it."""
    model.train()
    batch = batch_for(model, ROWS)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(num_steps + 1):
        optimizer.zero_grad()
        loss = model(batch).loss
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses[0], losses[-1]


def gradients(model: MMInterleaved) -> dict[str, Tensor]:
    model.train().zero_grad()
    model(batch_for(model, ROWS)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_checkpointing_changes_no_gradient(model: MMInterleaved, component: CheckpointedComponent) -> None:
    torch.manual_seed(1)
    expected = gradients(model)
    enable_activation_checkpointing(model, [component])
    torch.manual_seed(1)
    again = gradients(model)
    assert_equal_gradients(again, expected)


def assert_saved_and_read_again_it_is_the_same(model: MMInterleaved, directory: Path) -> None:
    model.eval().save_pretrained(directory)
    loaded = MMInterleaved.from_pretrained(directory)
    assert loaded.config == type(model.config).from_dict(model.config.to_dict())
    batch = batch_for(model, ROWS)
    with torch.no_grad():
        assert_equal_up_to_rounding(loaded(batch).loss, model(batch).loss)


@pytest.mark.parametrize("kind", VISION_ENCODERS)
def test_a_vision_encoder(folder: Path, tmp_path: Path, kind: str) -> None:
    model = make(folder, vision_encoder=kind)
    tokenizer, pixels = model.visual_tokenizer, torch.rand(2, 3, 32, 32)
    family = encoder_class(model.config.visual_tokenizer.vision_encoder["model_type"], kind)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (family.IMAGE_MEAN, family.IMAGE_STD))
    alone = family.MODEL.from_pretrained(folder / kind)
    with torch.no_grad():
        hidden, _ = tokenizer.adapter((pixels - tokenizer.image_mean) / tokenizer.image_std)
        assert_equal_up_to_rounding(hidden, alone((pixels - mean) / std).last_hidden_state)

    before, after = train(model)
    assert after < 0.9 * before
    trained = dict(model.visual_tokenizer.named_parameters())
    with_gradient = {name for name, parameter in trained.items() if parameter.grad is not None}
    assert with_gradient == {name for name in trained if not name.startswith("adapter.vision_model.")}
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(tokenizer.adapter.vision_model.state_dict()[name], tensor)
    assert_saved_and_read_again_it_is_the_same(model, tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in VISION_ENCODERS if "half" not in kind])
def test_activation_checkpointing_of_a_vision_encoder(folder: Path, kind: str) -> None:
    model = make(folder, vision_encoder=kind)
    for name, parameter in model.visual_tokenizer.adapter.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    assert_checkpointing_changes_no_gradient(model, "vision_encoder")


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_language_model(folder: Path, tmp_path: Path, kind: str) -> None:
    model = make(folder, language_model=kind)
    ids = torch.tensor([[5, model.config.begin_of_image_id]])
    with torch.no_grad():
        begin = model.embed(ids, torch.zeros(0, 0, 32), torch.zeros(0, 2, dtype=torch.int64))[0, 1]
        of_all = model.language_model.host.get_input_embeddings()(torch.arange(260)).mean(0)
        torch.testing.assert_close(begin, of_all)

    frozen = {name: tensor.clone() for name, tensor in model.language_model.host.state_dict().items()}
    before, after = train(model)
    assert after < 0.9 * before
    for name, tensor in model.language_model.host.state_dict().items():
        torch.testing.assert_close(tensor, frozen[name])
    gates = [synchronizer.gate for synchronizer in model.language_model.synchronizers]
    assert len(gates) == 2
    assert all(gate.grad.abs().max() > 0 for gate in gates)
    assert_saved_and_read_again_it_is_the_same(model, tmp_path)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@torch.no_grad()
def test_a_language_model_writes_token_by_token_what_it_reads_at_once(folder: Path, kind: str) -> None:
    """Twenty tokens are five times the sliding window."""
    model = make(folder, language_model=kind)
    ids, image = torch.randint(2, 258, (20,)).tolist(), torch.rand(3, 32, 32)
    begin = [*ids[:7], model.config.begin_of_image_id]
    at_once = TorchGenerationState(model).read([[begin, image, ids[7:]]])
    state = TorchGenerationState(model)
    steps = [state.read([[begin, image]]), *(state.read([[[token]]]) for token in ids[7:])]
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, rtol=0, atol=2e-6 * float(at_once.abs().max()) * 4)
    assert model.generate(["A fox", torch.rand(3, 40, 40)], mode="text", max_new_tokens=4).text


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_activation_checkpointing_and_adapters_of_a_language_model(folder: Path, kind: str) -> None:
    pytest.importorskip("peft")
    model = make(folder, language_model=kind)
    add_lora(model, LoraConfig(rank=4, targets=LORA_TARGETS[kind]))
    before, after = train(model)
    assert after < 0.9 * before
    assert_checkpointing_changes_no_gradient(model, "language_model")
    batch = batch_for(model.eval(), ROWS)
    with torch.no_grad():
        apart = model(batch).loss_text
        merge_lora(model)
        torch.testing.assert_close(model(batch).loss_text, apart)


def test_a_matrix_that_a_language_model_does_not_have_is_named(folder: Path) -> None:
    pytest.importorskip("peft")
    model = make(folder, language_model="phi3")
    with pytest.raises(ValueError, match=r"called k_proj, q_proj, v_proj; expected \[.*'qkv_proj'"):
        add_lora(model, LoraConfig())
