import pytest

from trainer.logging.time_left import time_left


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00 left"), (59, "0:59 left"), (332, "5:32 left"), (3723, "1:02:03 left")]
)
def test_time_left(seconds: int, shown: str) -> None:
    assert time_left(seconds) == shown
