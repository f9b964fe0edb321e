import torch

from trainer.dry_run import peak_memory_bytes, report
from trainer.metrics import Step


def step(number, *, num_tokens, step_s):
    return Step("main", number, 9, {}, num_tokens, 6, step_s, 0.1)


def test_the_report_counts_everything_and_times_what_is_warm():
    steps = [
        step(1, num_tokens=90, step_s=60.0),
        step(2, num_tokens=60, step_s=0.4),
        step(3, num_tokens=30, step_s=0.6),
    ]
    lines = report(
        steps,
        num_rows=2,
        row_tokens=50,
        num_read=200,
        num_broken=3,
        num_steps_left=7200,
        peak_bytes=3_210_000_000,
    )
    facts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines}
    assert facts["rows"] == "3 steps of 2, 3.0 images a row"
    assert facts["padding"] == "40.0% of the tokens"
    assert facts["broken"] == "3 of 200 samples and images read (1.50%)"
    assert facts["speed"] == "90 tokens/s, 12.0 images/s"
    assert facts["data"].startswith("20% of the time")
    assert facts["peak memory"] == "3.21 GB"
    assert facts["whole run"] == "7200 steps, 1.0 hours at this speed"


def test_one_step_has_to_do_and_a_world_without_files_has_nothing_broken():
    lines = report(
        [step(1, num_tokens=100, step_s=2.0)],
        num_rows=2,
        row_tokens=50,
        num_read=0,
        num_broken=0,
        num_steps_left=1,
        peak_bytes=0,
    )
    assert any("50 tokens/s" in line for line in lines)
    assert not any("broken" in line for line in lines)


def test_the_memory_of_this_process():
    before = peak_memory_bytes(torch.device("cpu"))
    assert before > 50e6  # PyTorch alone
    held = torch.ones(2**27, dtype=torch.uint8)
    assert peak_memory_bytes(torch.device("cpu")) >= before
    del held
