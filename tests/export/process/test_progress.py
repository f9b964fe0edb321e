import json
import time
from pathlib import Path

from export.process.progress import SECONDS_FILE, Progress, ReadProgress, RemainingBuildTime


def seconds_left(progress: Progress) -> float:
    return float(progress.left().removeprefix("; about ").removesuffix(" s left"))


def test_without_earlier_times_the_mean_counts(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("onnx", {})
    progress.on_line("[1/4] one ...")
    assert progress.left() == ""
    now[0] = 10
    progress.on_line("      some remark")
    progress.on_line("[2/4] two ...")
    assert seconds_left(progress) == 30
    now[0] = 14
    assert seconds_left(progress) == 26


def test_earlier_times_count_where_there_are_some(monkeypatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    (tmp_path / SECONDS_FILE).write_text(json.dumps({"onnx": {"one": 5.0, "two": 60.0}}))
    progress = Progress.of("onnx", [tmp_path / "missing", tmp_path])
    assert seconds_left(progress) == 65
    progress.on_line("[1/2] one")
    now[0] = 1
    progress.on_line("[2/2] two: traced before")
    now[0] = 21
    assert seconds_left(progress) == 40
    now[0] = 70
    assert progress.left() == "", "the last one takes longer than it took"
    progress.save(tmp_path)
    assert json.loads((tmp_path / SECONDS_FILE).read_text()) == {"onnx": {"one": 5.0, "two": 69.0}}
    assert Progress.of("lower", [tmp_path]).left() == ""


def test_time_left_is_known_from_earlier_builds() -> None:
    clock = RemainingBuildTime({"a": 10.0, "b": None, "c": 30.0})
    assert clock.left("a", 4) == "about 36 s left and an engine of unknown duration, never built here before"
    clock.finish("a")
    assert clock.left("b", 100) == "about 30 s left and an engine of unknown duration, never built here before"
    clock.finish("b")
    assert clock.left("c", 10) == "about 20 s left"
    assert clock.left("c", 100) == "longer than the last time"


def test_reading_of_large_files_says_how_far_it_is(monkeypatch, tmp_path: Path) -> None:
    now, lines = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for name in ("a", "b"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(2 * 10**9)
    on_bytes_read = ReadProgress("out", [tmp_path / "a", tmp_path / "b", tmp_path / "missing"], lines.append)
    for seconds in (4, 8, 12, 16):
        now[0] = seconds
        on_bytes_read(5 * 10**8)
    assert lines == ["      12 s, checking out: 1.5 of 4.0 GB; about 20 s left"]
