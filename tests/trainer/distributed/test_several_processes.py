"""The loop with 2 and 4 processes over gloo, on a small problem; everything is compared with one process."""

import json
import pickle
from functools import partial

import pytest
import torch

import processes
import two_branches
from trainer.logging.log_file import read_log
from trainer.process.watchdog import EXIT_STUCK
from trainer.run_files import HANG
from trainer.step import checkpoint
from two_branches import NUM_STEPS, POISONED_STEP

LAYERS = {"shard_layers": True}
pytestmark = pytest.mark.slow  # each launch is short, importing everything once for all of them is not


def run(num, out, **options):
    """Exit codes; `options` are those of `two_branches.run`."""
    return processes.run(partial(two_branches.run, str(out), **options), num)


def records(out):
    """By step; the last line about a step counts, as after a kill."""
    return {record["step"]: record for record in read_log(out) if "event" not in record}


def average(out, rank=0):
    return json.loads((out / f"average{rank}.json").read_text())


def assert_same_run(out, expected, *, ranks):
    assert [record["step"] for record in read_log(out) if record.get("event") == "skipped"] == [POISONED_STEP]
    assert records(out).keys() == records(expected).keys() == set(range(1, NUM_STEPS + 1)) - {POISONED_STEP + 1}
    for step, record in records(expected).items():
        for name in ("loss", "loss_text", "loss_image", "grad_norm", "num_tokens", "num_images"):
            # Sums in another order alone differ by up to 1.0e-6 (20 seeds).
            expected_value = record[name] if record[name] is None else pytest.approx(record[name], rel=2e-6)
            assert records(out)[step][name] == expected_value, (step, name)
    for rank in range(ranks):
        for name, weight in average(expected).items():
            torch.testing.assert_close(
                torch.tensor(average(out, rank)[name]), torch.tensor(weight), rtol=1e-6, atol=1e-6
            )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert two_branches.run(str(out)) == 0
    return out


@pytest.mark.parametrize(
    ("num", "options"),
    [
        pytest.param(2, {}, id="2-sharded"),
        pytest.param(4, {**LAYERS, "sample_every": 2}, id="4-layers-apart"),
        pytest.param(4, {**LAYERS, "shard_size": 2}, id="4-layers-apart-in-two-copies"),
        pytest.param(2, {**LAYERS, "micro_batch_rows": 1}, id="2-layers-apart-micro-batches"),
        pytest.param(2, {"shard_size": 1, "micro_batch_rows": 1}, id="2-whole-micro-batches"),
    ],
)
def test_the_same_run_as_one_process(alone, tmp_path, num, options):
    """With processes that have no image, a step in which nobody has one, and a gradient that is bad in one process."""
    out = tmp_path / "run"
    assert run(num, out, **options) == [0] * num
    assert_same_run(out, alone, ranks=num)


@pytest.mark.parametrize("options", [{}, {**LAYERS, "micro_batch_rows": 1}], ids=["one-unit", "layers-apart"])
def test_samples_see_whole_weights_and_change_nothing(alone, tmp_path, options):
    out = tmp_path / "run"
    assert run(2, out, sample_every=4, **options) == [0, 0]
    assert_same_run(out, alone, ranks=2)
    assert json.loads((out / f"sample{NUM_STEPS}.json").read_text()) == average(out)
    assert len(list(out.glob("sample*.json"))) == -(-NUM_STEPS // 4)


def test_a_signal_while_samples_are_made_stops_after_the_same_step(alone, tmp_path):
    out = tmp_path / "run"
    assert run(2, out, sample_every=2, signal_while_sampling=4) == [3, 3]
    assert checkpoint.find_latest(out / "checkpoints").step == 4  # where none was due
    assert sorted(file.name for file in out.glob("sample*")) == ["sample2.json"]
    assert run(2, out, sample_every=2, resume=True) == [0, 0]
    assert_same_run(out, alone, ranks=2)


def test_killed_and_resumed_with_other_numbers_of_processes(alone, tmp_path):
    out = tmp_path / "run"
    codes = run(2, out, trouble=(1, 4, "SIGKILL"), **LAYERS)
    assert codes[1] == -9
    assert codes[0] == 1  # the other one cannot go on
    assert checkpoint.find_latest(out / "checkpoints").step == 3
    assert run(4, out, resume=True, trouble=(2, 6, "SIGTERM")) == [3] * 4
    assert checkpoint.find_latest(out / "checkpoints").step == 7
    assert two_branches.run(str(out), resume=True) == 0
    assert_same_run(out, alone, ranks=1)


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    for number, (rank, code) in {"SIGUSR1": (1, 3), "SIGINT": (0, 130)}.items():
        out = tmp_path / number
        assert run(2, out, trouble=(rank, 2, number)) == [code] * 2  # step 3 is saved anyway
        assert checkpoint.find_latest(out / "checkpoints").step == 3
        assert not list((out / "checkpoints").glob(".unfinished*"))


def test_too_many_bad_gradients_end_all_processes(tmp_path):
    assert run(2, tmp_path / "run", max_skipped_in_a_row=0) == [1, 1]
    assert checkpoint.find_latest(tmp_path / "run" / "checkpoints").step == 3


def test_the_watchdog_names_the_process_that_all_wait_for(tmp_path):
    out = tmp_path / "run"
    codes = run(2, out, trouble=(1, 2, "sleeps"), watchdog_minutes=0.5)  # longer than any stage before may take
    assert EXIT_STUCK in codes
    assert 0 not in codes, "who is still waiting when the other one ends has lost its connection"
    said = "".join((out / f"stderr{rank}").read_text() for rank in (0, 1))
    assert "Nothing has moved for 30 s. Stuck: process 1 of 2, in the wait for data." in said
    assert "The others wait in the agreement on counts." in said
    assert (out / "traces1").read_text() == "stacks_rank_1.txt nccl_trace_rank_1", "for storage"
    [attempt] = (out / HANG).iterdir()
    stuck = (attempt / "stacks_rank_1.txt").read_text()
    assert "two_branches.py" in stuck, "where it sleeps"
    recorded = pickle.loads((attempt / "nccl_trace_rank_1").read_bytes())  # PyTorch's own format
    assert "gloo:all_reduce" in {entry["profiling_name"] for entry in recorded["entries"]}


def test_rows_that_cannot_be_shared_are_refused(tmp_path):
    out = tmp_path / "run"
    assert run(3, out) == [1, 1, 1]
    assert "3 processes cannot share a batch of 4 rows equally" in (out / "stderr2").read_text()
