import pytest
import torch
from torch import Tensor

from models import MMInterleaved, MMInterleavedConfig
from models.activation_checkpointing import enable_activation_checkpointing
from numerics import FLOAT32_ROUNDING
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
    assert recomputed.keys() == gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=4 * FLOAT32_ROUNDING * largest)
    assert kept_less_bytes < share * kept_bytes


def test_the_synchronizers_have_no_images_afterwards(model: MMInterleaved) -> None:
    enable_activation_checkpointing(model, ["language_model"])
    train_once(model)
    assert all(synchronizer.images is None for synchronizer in model.language_model.synchronizers)


def test_a_model_without_mmfs_can_be_recomputed_too() -> None:
    model = MMInterleaved(MMInterleavedConfig.tiny().without_mmfs())
    loss, *_ = train_once(model)
    enable_activation_checkpointing(model, ["vision_encoder", "language_model", "unet"])
    assert train_once(model)[0] == pytest.approx(loss, rel=1e-6)


def test_an_unknown_part_is_named(model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match="no component 'vae' for activation checkpointing"):
        enable_activation_checkpointing(model, ["vae"])
