import math
import re

import pytest
import torch

from models import MMInterleaved
from trainer import pretrain
from trainer.data.stream import Stream
from trainer.dry_run import report
from trainer.logging.metrics import Step
from trainer.recipes import RECIPES
from trainer.step.accumulate import accumulate


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
    assert facts["whole run"] == "7,200 steps, 60 minutes at this speed"


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


@pytest.mark.gpu
def test_a_step_on_a_gpu_has_the_gradient_of_one_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # convolutions of 10 bits, by default
    config = RECIPES["tiny"]()
    model = MMInterleaved(config.model).train()
    batch = Stream(config.data, config.model, seed=config.seed).part(config.num_steps, range(2))
    gradients = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        model.to(device).zero_grad()
        accumulate(model, batch.to(device), num_targets=100, num_drawn=len(batch.drawn))
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_dry_run_on_a_gpu_tells_its_memory(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tiny", "--encoder_pretraining.num_steps", "0", "--device", "cuda", "--precision", precision]
    assert pretrain.main([*command, "--dry_run", "2"]) == 0
    printed = capsys.readouterr().out
    found = re.search(r"peak memory +([0-9.]+) GB", printed)
    assert found is not None, printed
    assert math.isclose(float(found[1]), torch.cuda.max_memory_allocated() / 1e9, abs_tol=0.01)
