import pytest

from models.listed_paths import is_below


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("a", True),
        ("a/b.txt", True),
        ("..a/b", True),
        ("/a", False),
        ("a/../../b", False),
        ("..", False),
        ("a\0", False),
    ],
)
def test_names_below_a_directory(name: str, below: bool) -> None:
    assert is_below(name) is below
