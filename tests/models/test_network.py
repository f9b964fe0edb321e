import dataclasses

import pytest
import torch

from models import Batch, MMInterleaved
from numerics import ROUNDINGS, assert_equal_up_to_rounding
from rows import pack_rows


def select(batch: Batch, **changes: torch.Tensor) -> Batch:
    return dataclasses.replace(batch, **changes)


def test_the_loss_is_the_papers_sum(model: MMInterleaved) -> None:
    output = model(pack_rows([[[9, "draw"], ["image", 9, 10, "draw", 11]], [[9, 10], ["image", 12]]]))
    torch.testing.assert_close(output.loss, output.loss_text + 10 * output.loss_image)
    torch.testing.assert_close(output.loss_text * output.num_targets, output.text_loss_sum)
    torch.testing.assert_close(output.loss_image * output.num_drawn, output.image_loss_sum)
    assert output.num_drawn == 2
    assert output.num_targets == 3 + 6 + 3 + 3  # every token after <s> but the placeholders
    assert 4 < output.loss_text < 10  # near ln(1024) = 6.9 for random weights


def test_documents_in_a_row_do_not_meet(model: MMInterleaved) -> None:
    """The losses of packed documents add up to the losses of the documents alone."""
    packed = pack_rows([[[9, 10, 11], ["image", 12, 13], [14, "image", 15]]])
    alone = [pack_rows([[document]]) for document in ([9, 10, 11], ["image", 12, 13], [14, "image", 15])]
    alone[1] = select(alone[1], pixel_values=packed.pixel_values[:1])
    alone[2] = select(alone[2], pixel_values=packed.pixel_values[1:])
    total = sum(model(batch).text_loss_sum for batch in alone)
    torch.testing.assert_close(model(packed).text_loss_sum, total, rtol=1e-5, atol=1e-5)


def test_padding_does_not_matter(model: MMInterleaved) -> None:
    short = pack_rows([[[9, "draw"]]])
    padded = pack_rows([[[9, "draw"]], [[9] * 20]])
    row = {name: getattr(padded, name)[:1] for name in ("input_ids", "targets", "document_ids", "position_ids")}
    images = {name: getattr(short, name) for name in ("pixel_values", "drawn_pixels")}
    padded = select(padded, **row, **images)
    assert padded.input_ids.shape[1] > short.input_ids.shape[1]
    torch.testing.assert_close(model(padded).loss, model(short).loss, rtol=1e-5, atol=1e-5)


def test_a_later_image_never_changes_an_earlier_token(model: MMInterleaved) -> None:
    batch = pack_rows([[[9, "image", 10, "image", 11]]])
    changed = select(batch, pixel_values=batch.pixel_values.clone())
    changed.pixel_values[1] = 1 - changed.pixel_values[1]
    second_begin = int(batch.image_positions[1, 1]) - 1
    only_before = batch.targets.clone()
    only_before[:, second_begin + 1 :] = -100
    losses = [model(select(b, targets=only_before)).text_loss_sum for b in (batch, changed)]
    assert_equal_up_to_rounding(*losses)
    only_after = batch.targets.clone()
    only_after[:, : second_begin + 1] = -100
    losses = [model(select(b, targets=only_after)).text_loss_sum for b in (batch, changed)]
    assert (losses[0] - losses[1]).abs() > 100 * ROUNDINGS * torch.finfo(torch.float32).eps * losses[0]


def test_a_drawn_image_looks_at_the_images_before_it_and_not_at_itself(model: MMInterleaved) -> None:
    batch = pack_rows([[["image", 9, "draw"]]])
    before = model(batch).loss_image
    for index, matters in ((0, True), (1, False)):
        changed = select(batch, pixel_values=batch.pixel_values.clone())
        changed.pixel_values[index] = 1 - changed.pixel_values[index]
        difference = (model(changed).loss_image - before).abs()
        assert (difference > 1e-7) == matters


@pytest.mark.parametrize("rows", [[[[9, 10]]], [[["image"]]], [[[9, "draw"]]]], ids=["text", "image", "draw"])
def test_any_mixture_trains(model: MMInterleaved, rows: list) -> None:
    model.train()(pack_rows(rows)).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_without_targets_the_loss_is_zero_and_not_nan(model: MMInterleaved) -> None:
    batch = pack_rows([[[9, 10]]])
    output = model(select(batch, targets=torch.full_like(batch.targets, -100)))
    assert output.loss == 0


def test_every_trainable_parameter_takes_part(model: MMInterleaved) -> None:
    for block in model.visual_tokenizer.modules():
        if hasattr(block, "gamma"):
            torch.nn.init.ones_(block.gamma)
    batch = pack_rows([[["image", 9, "draw"], ["image", 9, "draw"]]])
    for key in range(1, 200):  # one image keeps its text condition, the other loses it
        *_, dropped = model.image_decoder._draw_noise(torch.tensor([0, key]), batch.pixel_values)
        if dropped.tolist() in ([True, False], [False, True]):
            break
    model.train()(select(batch, drawn_keys=torch.tensor([0, key]))).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_without_mmfs_the_rest_is_the_same(model: MMInterleaved) -> None:
    batch = pack_rows([[["image", 9, "draw"]]])
    bare = MMInterleaved(model.config.without_mmfs())
    kept = bare.state_dict().keys()
    bare.load_state_dict({name: weight for name, weight in model.state_dict().items() if name in kept})
    assert not bare.language_model.synchronizers
    assert not bare.image_decoder.unet.synchronizers
    assert (bare(batch).loss - model(batch).loss).abs() > 1e-6
    for synchronizer in model.language_model.synchronizers:
        torch.nn.init.zeros_(synchronizer.gate)
    for synchronizer in model.image_decoder.unet.synchronizers:
        torch.nn.init.zeros_(synchronizer.conv.weight)
    torch.testing.assert_close(bare(batch).loss, model(batch).loss)


def test_bank_order_is_what_connects_images_and_tokens(model: MMInterleaved) -> None:
    batch = pack_rows([[["image", 9]], [["image", 10]]])
    swapped = select(batch, pixel_values=batch.pixel_values.flip(0))
    assert (model(batch).loss_text - model(swapped).loss_text).abs() > 1e-7
