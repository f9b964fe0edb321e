"""What is broken, and when it is too much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.quarantine import MIN_READ, Quarantine
from trainer.errors import UnusableDataError

ROOT = Path(__file__).parents[3]


def test_broken_ones_are_named_once(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(file, 0.5)
    for name in ("a", "b", "a"):
        quarantine.count()
        quarantine.add("laion", name, "it is cut off")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"source": "laion", "name": name, "reason": "it is cut off"} for name in ("a", "b")
    ]
    assert (quarantine.num_read, quarantine.num_broken) == (3, 3)


def test_too_many_stop_the_run():
    quarantine = Quarantine(None, 0.01)
    for number in range(10):
        quarantine.count()
        quarantine.add("laion", str(number), "broken")
    with pytest.raises(UnusableDataError, match=r"11 of 10 .* than the share of 0.01 .* The last: x: it is cut off"):
        quarantine.add("laion", "x", "it is cut off")


def test_the_share_is_of_all_that_was_read():
    quarantine = Quarantine(None, 0.01)
    for _ in range(2 * MIN_READ):
        quarantine.count()
    for number in range(20):
        quarantine.add("laion", str(number), "broken")
    with pytest.raises(UnusableDataError, match="21 of 2000"):
        quarantine.add("laion", "x", "broken")
    with pytest.raises(UnusableDataError, match="1 of 0"):
        Quarantine(None, 0.0).add("laion", "x", "broken")


def test_workers_and_resumed_runs_name_each_once(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    first, second = Quarantine(file, 1.0), Quarantine(file, 1.0)
    for name in "abc":
        first.add("laion", name, "it is cut off")
        second.add("laion", name, "it is cut off")
    second.add("coco", "a", "it is cut off")
    first.add("laion", "d", "it is cut off")
    with file.open("ab") as cut:
        cut.write(b'{"source": "laion", "na')  # of a process that was killed
    resumed = Quarantine(file, 1.0)
    for name in "abcde":
        resumed.add("laion", name, "it is cut off")
    lines = [line for line in file.read_text().splitlines() if not line.endswith('"na')]
    named = [(entry["source"], entry["name"]) for entry in map(json.loads, lines)]
    assert named == [*(("laion", name) for name in "abc"), ("coco", "a"), ("laion", "d"), ("laion", "e")]
    assert (first.num_broken, second.num_broken, resumed.num_broken) == (4, 4, 5)


def test_processes_at_once_name_each_once(tmp_path):
    file = tmp_path / "quarantine.jsonl"
    code = (
        "import sys; from pathlib import Path; from trainer.data.quarantine import Quarantine\n"
        "quarantine = Quarantine(Path(sys.argv[1]), 1.0)\n"
        "for number in range(300): quarantine.add('laion', f'sample {number}', 'it is cut off')\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert sorted(names) == sorted(f"sample {number}" for number in range(300))


def test_what_a_terminal_would_obey_is_shown_escaped(tmp_path):
    with pytest.raises(UnusableDataError, match=r"The last: \\x1b\[31m: \\udcff"):
        Quarantine(None, 0.0).add("laion", "\x1b[31m", "\udcff")
