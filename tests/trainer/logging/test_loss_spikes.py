import pytest

from trainer.logging.loss_spikes import LossSpikes


def told(losses, deviations=10.0):
    """The places of the losses that are told of."""
    spikes = LossSpikes(deviations)
    return [place for place, loss in enumerate(losses) if spikes.add(loss) is not None]


def falling(num):
    """2.0 falling to 1.5, with something of the noise of batches."""
    return [2.0 - 0.5 * step / num + 0.05 * (step * 7 % 11 - 5) / 5 for step in range(num)]


def test_a_loss_far_above_the_recent_ones_is_told_of():
    losses = falling(200)
    assert told(losses) == []
    losses[150] = losses[151] = 4.0  # the second one is measured by the same recent steps
    assert told(losses) == [150, 151]
    assert told(losses, deviations=0.0) == []


def test_what_is_usual_is_the_median():
    spikes = LossSpikes(10.0)
    for _ in range(40):
        assert spikes.add(1.0) is None
    assert spikes.add(1.05) is None, "a flat loss has no deviation, and this is not far"
    usual = spikes.add(9.0)
    assert usual is not None
    assert (usual.loss, usual.deviation) == (1.0, pytest.approx(0.01))


def test_the_first_steps_and_a_new_level_are_not_told_of_for_ever():
    assert told([9.0, *falling(20), 9.0]) == [], "too few to compare with"
    raised = told(falling(100) + [loss + 3 for loss in falling(300)])
    assert raised, "the step up"
    assert max(raised) < 100 + 64, "half of what is recent has the new level by then"
