"""Numbers of things in sentences."""

from mmfs.plurals import counted


def test_one_is_singular() -> None:
    told = [counted(number, "step") for number in (0, 1, 2, 1000)]
    assert told == ["0 steps", "1 step", "2 steps", "1,000 steps"]
