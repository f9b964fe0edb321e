import pytest

from trainer.process.watchdog import stuck_sentence


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        pytest.param(
            {0: (7, "the update"), 1: (5, "the wait for data"), 2: (7, "the update"), 3: (5, "the wait for data")},
            "Stuck: the processes [1, 3] of 4, in the wait for data. The others wait in the update.",
            id="two-behind",
        ),
        pytest.param(dict.fromkeys(range(4), (7, "the update")), "All 4 processes are in the update", id="network"),
        pytest.param({0: (1, "x"), 3: (1, "x")}, "The processes [1, 2] of 4 have not started to train.", id="silent"),
    ],
)
def test_who_is_stuck(progress, expected):
    sentence = stuck_sentence(progress, 4, 90.0)
    assert sentence.startswith("Nothing has moved for 90 s. ")
    assert expected in sentence
