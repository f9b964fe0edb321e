import pytest
from torch import Tensor

from models import MMInterleaved, MMInterleavedConfig
from models.activation_checkpointing import enable_activation_checkpointing
from numerics import assert_equal_gradients
from rows import pack_rows
from trainer.cost.saved_tensors import SavedTensors

ROWS = [[["image", *range(9, 99), "draw", 11, "draw"]], [[9, 10], ["image", 12, "draw"]]]


def train_once(model: MMInterleaved) -> tuple[float, dict[str, Tensor], int]:
    """The loss, all gradients, and the bytes that are kept for them."""
    model.train().zero_grad()
    saved = SavedTensors([*model.parameters(), *model.buffers()])
    with saved.counted():
        loss = model(pack_rows(ROWS)).loss
        kept_bytes = saved.live_bytes
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients, kept_bytes


@pytest.mark.parametrize(("part", "share"), [("vision_encoder", 0.99), ("language_model", 0.95), ("unet", 0.95)])
def test_the_gradient_is_the_same_and_less_is_kept(model: MMInterleaved, part: str, share: float) -> None:
    loss, gradients, kept_bytes = train_once(model)
    enable_activation_checkpointing(model, [part])
    again, recomputed, kept_less_bytes = train_once(model)
    assert again == pytest.approx(loss, rel=1e-6)
    assert_equal_gradients(recomputed, gradients)
    assert kept_less_bytes < share * kept_bytes


def test_the_switch_of_transformers_itself_works_too(model: MMInterleaved) -> None:
    loss, gradients, _ = train_once(model)
    host = model.language_model.host
    is_new = hasattr(host, "activation_checkpointing_enable")  # the name since transformers 5.18
    (host.activation_checkpointing_enable if is_new else host.gradient_checkpointing_enable)({"use_reentrant": False})
    again, recomputed, _ = train_once(model)
    assert again == pytest.approx(loss, rel=1e-6)
    assert_equal_gradients(recomputed, gradients)


def test_a_model_without_mmfs_can_be_recomputed_too() -> None:
    model = MMInterleaved(MMInterleavedConfig.tiny().without_mmfs())
    loss, *_ = train_once(model)
    enable_activation_checkpointing(model, ["vision_encoder", "language_model", "unet"])
    assert train_once(model)[0] == pytest.approx(loss, rel=1e-6)


def test_an_unknown_part_is_named(model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match="no component 'vae' for activation checkpointing"):
        enable_activation_checkpointing(model, ["vae"])
