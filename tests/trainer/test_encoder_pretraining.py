from dataclasses import replace

import pytest
import torch

from models import MMInterleaved
from trainer.data.labelled_scenes import LabelledImages
from trainer.encoder_pretraining import balanced_cross_entropy, cell_labels, encoder_phase, share
from trainer.recipes import tiny

IMAGES = range(tiny().encoder_pretraining.images_per_step)


def test_cell_labels_are_those_at_the_centres():
    labels = torch.arange(4 * 8).view(1, 4, 8)
    assert cell_labels(labels, (2, 4)).tolist() == [
        [[9, 11, 13, 15], [25, 27, 29, 31]]
    ]  # rows 1, 3; columns 1, 3, 5, 7
    assert torch.equal(cell_labels(labels, (4, 8)), labels)
    assert cell_labels(labels, (1, 1)).tolist() == [[[2 * 8 + 4]]]
    assert cell_labels(labels, (8, 8))[0, :, 0].tolist() == [0, 0, 8, 8, 16, 16, 24, 24]  # finer than the labels


def test_a_rare_kind_of_cell_weighs_as_much_as_a_common_one():
    targets = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 2]])
    logits = torch.zeros(1, 8, 3)
    logits[0, 7, 2] = 9.0  # sure of the rare one, ignorant of the others
    kinds = (targets == 0, targets == 2)
    loss = balanced_cross_entropy(logits, targets, kinds, (7, 1))
    rare = -logits[0, 7].log_softmax(-1)[2]
    assert loss.item() == pytest.approx((torch.tensor(3.0).log() + rare).item() / 2)
    assert balanced_cross_entropy(logits, targets, (targets == 1,), (0,)).item() == 0.0


def test_share():
    chosen = torch.tensor([True, True, False])
    assert share(torch.tensor([True, False, True]), chosen, 2).item() == 0.5
    assert share(torch.tensor([True, False, True]), chosen, 4).item() == 0.25  # two more are chosen elsewhere
    assert share(torch.tensor([1.0]), torch.tensor([False]), 0).item() == 0.0


@pytest.fixture
def phase():
    torch.manual_seed(0)
    config = tiny()
    return encoder_phase(MMInterleaved(config.model), config)


def test_batches_are_images_with_labels(phase):
    batch = phase.batch(0, IMAGES)
    assert isinstance(batch, LabelledImages)
    num_images, size = len(IMAGES), tiny().model.visual_tokenizer.vision_encoder["image_size"]
    assert batch.pixel_values.shape == (num_images, 3, size, size)
    assert batch.classes.shape == batch.numbers.shape == (num_images, size, size)
    assert phase.size(batch) == (0, num_images)
    assert torch.equal(phase.batch(0, IMAGES).pixel_values, batch.pixel_values)
    assert not torch.equal(phase.batch(1, IMAGES).pixel_values, batch.pixel_values)


def test_maps_and_tokens_learn_what_stands_where(phase):
    batch = phase.batch(3, IMAGES)
    counts = phase.counts(batch)
    optimizer = torch.optim.AdamW(phase.module.parameters(), lr=3e-3)  # at 1e-2 the accuracies leap from step to step
    before = phase.accumulate(phase.module, batch, counts)
    for _ in range(100):
        optimizer.zero_grad()
        after = phase.accumulate(phase.module, batch, counts)
        optimizer.step()
    assert after["loss"] < before["loss"] / 2
    assert after["accuracy_sprites"] > 0.8
    assert before["accuracy_layout"] == 0
    assert after["accuracy_layout"] > 0.5  # two visual tokens of 32 numbers: the tiny model does not place all


def test_numbers_are_asked_only_of_numbered_sprites(phase):
    batch = phase.batch(0, IMAGES)
    silent = replace(batch, numbers=torch.full_like(batch.numbers, -1))
    output = phase.module(silent)
    assert output.accuracy_numbers.item() == 0
    output.loss.backward()
    assert all(head.weight.grad[-20:].abs().sum() == 0 for head in phase.module.heads)


def test_shares_of_a_batch_add_up_to_the_whole_batch(phase):
    def gradients() -> torch.Tensor:
        found = torch.cat([p.grad.flatten() for p in phase.module.parameters() if p.grad is not None])
        phase.module.zero_grad()
        return found

    images = range(6)
    whole = phase.batch(1, images)
    counts = phase.counts(whole)
    expected = phase.accumulate(phase.module, whole, counts)
    expected_gradients = gradients()
    shares = [phase.batch(1, images[share]) for share in (slice(0, 1), slice(1, 6))]
    assert [sum(column) for column in zip(*map(phase.counts, shares), strict=True)] == counts
    parts = [phase.accumulate(phase.module, batch, counts) for batch in shares]
    for name, value in expected.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-6, atol=1e-6)
    assert (gradients() - expected_gradients).norm() < 1e-5 * expected_gradients.norm()
    alone = phase.module(whole)
    torch.testing.assert_close(alone.loss.detach(), expected["loss"])


def test_every_level_is_supervised(phase):
    phase.module(phase.batch(0, IMAGES)).loss.backward()
    assert len(phase.module.heads) == len(phase.module.visual_tokenizer.spatial_shapes)
    assert all(head.weight.grad.abs().sum() > 0 for head in phase.module.heads)


def test_the_encoder_that_learns_is_the_models():
    config = replace(tiny(), seed=3)
    model = MMInterleaved(config.model)
    assert encoder_phase(model, config).module.visual_tokenizer is model.visual_tokenizer
