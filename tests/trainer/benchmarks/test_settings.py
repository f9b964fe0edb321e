import pytest

from trainer.benchmarks.settings import begin_or_go_on, digest_of
from trainer.errors import UsageError

SETTINGS = {"model": {"sha256": "a"}, "options": {"num_beams": 5}}


def test_a_run_goes_on_with_its_settings(tmp_path) -> None:
    begin_or_go_on(tmp_path, SETTINGS, ("predictions-*",))
    begin_or_go_on(tmp_path, SETTINGS, ("predictions-*",))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"model": {"sha256": "b"}, "options": {"num_beams": 5}}, "model.sha256 'a', and now it is 'b'"),
        ({"model": {"sha256": "a"}, "options": {"num_beams": 3}}, "options.num_beams 5, and now it is 3"),
        ({"model": {"sha256": "a"}}, r"options .*, and now it is None"),
        ({**SETTINGS, "seed": 1}, "seed None, and now it is 1"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, now, message) -> None:
    begin_or_go_on(tmp_path, SETTINGS, ())
    with pytest.raises(UsageError, match=message):
        begin_or_go_on(tmp_path, now, ())


def test_folders_of_something_else(tmp_path) -> None:
    (tmp_path / "predictions-0.jsonl").touch()
    with pytest.raises(UsageError, match=r"holds predictions-0\.jsonl but no settings\.json"):
        begin_or_go_on(tmp_path, SETTINGS, ("predictions-*",))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        begin_or_go_on(tmp_path, SETTINGS, ())


def test_digests(tmp_path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert digest_of([tmp_path / "a", tmp_path / "b"]) != digest_of([tmp_path / "b", tmp_path / "a"])
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        digest_of([tmp_path / "c"])
