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
