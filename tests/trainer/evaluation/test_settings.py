import pytest

from trainer.errors import UsageError
from trainer.evaluation.settings import Settings


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="num_texts is 0"):
        Settings(num_texts=0)
    with pytest.raises(UsageError, match=r"'sing'.*expected some of caption"):
        Settings(tasks=("read", "sing"))
    with pytest.raises(UsageError, match="expected some of caption"):
        Settings(tasks=())


def test_images_are_counted_apart_from_texts() -> None:
    settings = Settings(num_texts=5, num_images=3)
    assert [settings.num_documents(task) for task in ("read", "caption", "draw", "story")] == [5, 5, 3, 3]


def test_numbers_that_draw_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="guidance_scale is nan; expected a finite number"):
        Settings(guidance_scale=float("nan"))
    with pytest.raises(UsageError, match="seed is -1; expected a whole number from 0"):
        Settings(seed=-1)
