import io
import json
from dataclasses import replace

import pytest

from trainer.errors import UsageError
from trainer.logging.log_file import forget_steps_after, read_log
from trainer.logging.metrics import RunLog, Step, progress_line
from trainer.run_files import LOG

MEANS = {
    **{"loss": 1.0, "lr": 1.0, "tokens_per_s": 0.0, "images_per_s": 5.0},
    **{"data_wait_share": 0.02, "step_s": 1.0},
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(number, *, phase="main", num_steps=4, **values):
    values = {"loss": 2.0 * number, "loss_image": None, "lr": 1e-3, **values}
    return Step(phase, number, num_steps, values, num_tokens=100, num_images=10, step_s=0.5, data_wait_s=0.125)


def run(directory, stream, steps, **options):
    log = RunLog(directory, log_every=2, stream=stream, **options)
    log.event("start", seed=1)
    for one in steps:
        log.step(one)
    log.message("done")
    log.close()


def test_the_log_has_every_step_and_the_lines_have_means(tmp_path):
    stream = io.StringIO()
    run(tmp_path, stream, [step(1), step(2), step(3, loss_image=0.25), step(4)])
    assert stream.getvalue().splitlines() == [
        "main 2/4  loss 3  lr 1.0e-03  200 tokens/s  20 images/s  25% data wait  0:01 left",
        "main 4/4  loss 7  image 0.25  lr 1.0e-03  200 tokens/s  20 images/s  25% data wait  0:00 left",
        "done",
    ]
    start, *steps = read_log(tmp_path)
    assert (start["event"], start["seed"]) == ("start", 1)
    assert [record["loss"] for record in steps] == [2.0, 4.0, 6.0, 8.0]
    assert steps[0] == {
        **{"phase": "main", "step": 1, "loss": 2.0, "loss_image": None, "lr": 1e-3},
        **{"num_tokens": 100, "num_images": 10, "step_s": 0.5, "data_wait_s": 0.125},
    }


def test_a_terminal_has_one_line_that_moves(tmp_path):
    stream = Terminal()
    run(tmp_path, stream, [step(1), step(2)])
    first, second = stream.getvalue().split("\r")[1:]
    assert first.startswith("main 1/4  loss 2")
    assert second.startswith("main 2/4  loss 3")
    assert second.endswith("\x1b[K\ndone\n")  # what is said next starts on its own line


def test_means_do_not_mix_phases(tmp_path):
    stream = io.StringIO()
    run(tmp_path, stream, [step(1, phase="encoder", num_steps=1, loss=100.0), step(1), step(2)])
    assert "main 2/4  loss 3 " in stream.getvalue()


def test_tensorboard_has_the_points(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, io.StringIO(), [step(1), step(2), step(3), step(4)])
    run(tmp_path, io.StringIO(), [step(3), step(4, loss=80.0)], first_step=2)  # a resumed run makes them again
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {event.step: event.value for event in events.Scalars("main/loss")} == {2: 3.0, 4: 43.0}


@pytest.mark.parametrize(
    ("left_steps", "text"), [(0, "0:00 left"), (7, "0:07 left"), (600, "10:00 left"), (3661, "1:01:01 left")]
)
def test_time_left(left_steps, text):
    line = progress_line(step(1, num_steps=1 + left_steps), MEANS)
    assert line == f"main 1/{1 + left_steps}  loss 1  lr 1.0e+00  5 images/s  2% data wait  {text}"


def test_utilisation_and_memory_are_in_the_line_and_the_log(tmp_path):
    stream = io.StringIO()
    steps = [replace(step(1), flops=4e9), replace(step(2), flops=2e9, peak_memory_bytes=12_345_678_901)]
    run(tmp_path, stream, [*steps, step(3), step(4)], peak_flops=1e10)
    due, other, _ = stream.getvalue().splitlines()
    assert due.endswith("20 images/s  25% data wait  60% MFU  12.3 GB  0:01 left")
    assert other.endswith("25% data wait  12.3 GB  0:00 left")  # operations were not counted
    records = [record for record in read_log(tmp_path) if "step" in record]
    assert [record.get("mfu") for record in records] == [0.8, 0.4, None, None]
    assert [record.get("peak_memory_bytes") for record in records] == [None, 12_345_678_901, None, None]


def test_parts_of_a_mixture_are_in_the_log_and_not_in_the_line(tmp_path):
    stream = io.StringIO()
    run(tmp_path, stream, [step(1, **{"loss_text/cats": 1.5}), step(2, **{"loss_text/cats": None})])
    assert "1.5" not in stream.getvalue()
    assert [record["loss_text/cats"] for record in read_log(tmp_path) if "step" in record] == [1.5, None]


@pytest.mark.parametrize(
    ("max_length", "line"),
    [
        (70, "main 1/4  loss 1  lr 1.0e+00  5 images/s  2% data wait  0:03 left"),
        (60, "main 1/4  loss 1  lr 1.0e+00  5 images/s  0:03 left"),
        (5, "main 1/4  0:03 left"),
    ],
)
def test_a_line_that_is_too_long_keeps_its_ends(max_length, line):
    assert progress_line(step(1), MEANS, max_length=max_length) == line


class OnBytesRead:
    def __init__(self) -> None:
        self.steps: list[tuple[int, dict]] = []
        self.events: list[str] = []
        self.is_closed = False

    def step(self, values, step):
        self.steps.append((step, values))

    def event(self, name, facts):
        self.events.append(name)

    def close(self):
        self.is_closed = True


def test_a_sink_gets_every_record(tmp_path):
    heard = OnBytesRead()
    run(tmp_path, io.StringIO(), [step(1, phase="encoder", num_steps=1), step(1), step(2)], first_step=7, sink=heard)
    assert heard.events == ["start"]
    assert [number for number, _ in heard.steps] == [8, 9, 10]
    assert heard.steps[0][1]["encoder/loss"] == 2.0
    assert heard.steps[2][1]["main/num_tokens"] == 100
    assert "main/loss_image" not in heard.steps[2][1]  # nothing was measured
    assert heard.is_closed


def test_forgetting_keeps_events_and_earlier_steps(tmp_path):
    run(tmp_path, io.StringIO(), [step(1, phase="encoder"), step(2, phase="encoder"), step(1), step(2), step(3)])
    with (tmp_path / LOG).open("a") as file:
        file.write('{"phase": "main", "st')  # the power went
    forget_steps_after(tmp_path, ["encoder", "main"], "main", 2)
    left = [(record.get("event") or record["phase"], record.get("step")) for record in read_log(tmp_path)]
    assert left == [("start", None), ("encoder", 1), ("encoder", 2), ("main", 1), ("main", 2)]
    assert all(json.loads(line) for line in (tmp_path / LOG).read_text().splitlines())
    forget_steps_after(tmp_path, ["encoder", "main"], "encoder", 1)
    assert [(r["phase"], r["step"]) for r in read_log(tmp_path) if "step" in r] == [("encoder", 1)]


def test_a_broken_record_in_the_middle_is_not_passed_over(tmp_path):
    (tmp_path / LOG).write_text('{"event": "start"}\n{"phase"\n{"event": "done"}\n')
    with pytest.raises(UsageError, match=r"Line 2 of .*log.jsonl is damaged; .* drops the line"):
        list(read_log(tmp_path))
    assert [record["event"] for record in read_log(tmp_path, pass_over_damage=True)] == ["start", "done"]
