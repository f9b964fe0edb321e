"""What is kept goes by age, by size, and least recently used first."""

from export.serve.content.kept import Kept


def test_values_go_by_age():
    now = [0.0]
    kept: Kept[str] = Kept(10, 100, lambda: now[0])
    kept.put("a", "A", 1)
    now[0] = 9
    assert kept.get("a") == "A"
    now[0] = 18
    assert kept.get("a") == "A"  # it was used in between
    now[0] = 29
    assert kept.get("a") is None


def test_the_least_recently_used_go_first_where_memory_is_short():
    kept: Kept[str] = Kept(10, 100, lambda: 0.0)
    kept.put("a", "A", 40)
    kept.put("b", "B", 40)
    kept.get("a")
    kept.put("c", "C", 40)
    assert [kept.get(key) for key in "abc"] == ["A", None, "C"]
    kept.put("large", "L", 101)
    assert [kept.get(key) for key in ("a", "c", "large")] == [None, None, None]
    kept.put("a", "A", 100)
    kept.put("a", "again", 100)
    assert kept.get("a") == "again"
    kept.remove("a")
    assert kept.get("a") is None
