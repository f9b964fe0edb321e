"""Operations of a step and what devices can do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from trainer.cost.estimate import batch_shape
from trainer.cost.step_cost import measure, shell
from trainer.cost.utilisation import StepFlops, peak_flops
from trainer.data.stream import Stream
from trainer.logging.log_file import read_log
from trainer.pretrain import main
from trainer.recipes import RECIPES
from trainer.step.accumulate import Chunks
from trainer.step.losses import StepLosses, count_tokens_and_images
from trainer.system_config import LoggingConfig, MemoryConfig

CPU = torch.device("cpu")


@pytest.mark.slow  # it measures the model on tensors without data
def test_a_step_costs_what_is_in_it():
    """Against a measurement of another batch than the one that the costs are from."""
    config = RECIPES["tiny"]()
    # Micro-batches and what is computed again are no matter of the model's.
    memory = MemoryConfig(micro_batch_rows=2, activation_checkpointing=["unet", "language_model"])
    flops = StepFlops.of(replace(config, memory=memory))
    batch = Stream(config.data, config.model, seed=1).part(7, range(config.data.num_rows))
    counts = StepLosses(Chunks(), torch.float32).counts(batch)
    _, num_images = count_tokens_and_images(batch)
    usual = batch_shape(config, config.data.num_rows)
    shape = replace(usual, num_images=num_images, num_targets=counts[0], num_drawn=counts[1])
    assert shape != usual
    expected = measure(shell(config), config, shape)
    assert flops(counts, num_images) == pytest.approx(expected.flops, rel=0.03)  # measured: 1 % too much


def test_a_cpu_and_float32_are_unknown_unless_told(monkeypatch):
    tiny, gpu = RECIPES["tiny"](), torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_flops(tiny, CPU) is None
    assert peak_flops(tiny, gpu) is None  # float32
    assert peak_flops(replace(tiny, precision="bfloat16"), CPU) is None
    assert peak_flops(replace(tiny, precision="bfloat16"), gpu) == 989e12
    assert peak_flops(replace(tiny, logging=LoggingConfig(peak_tflops=0.5)), CPU) == 0.5e12


@pytest.mark.slow  # it measures the model on tensors without data
def test_a_run_that_is_told_the_peak_tells_its_utilisation(tmp_path, capsys):
    options = ("--encoder_pretraining.num_steps", "0", "--num_steps", "2", "--logging.every", "1", "--num_workers", "0")
    assert main(["tiny", *options, "--out", str(tmp_path / "run"), "--logging.peak_tflops", "0.001"]) == 0
    shares = [record["mfu"] for record in read_log(tmp_path / "run") if "step" in record and "event" not in record]
    assert len(shares) == 2
    assert min(shares) > 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("main 2/2")]
    printed = re.search(r"  (\d+)% MFU  \d+\.\d GB  ", lines[0])
    assert int(printed[1]) == pytest.approx(100 * shares[1], abs=0.51)  # the log has rounded it to four places before


def test_a_peak_of_nothing_is_refused(tmp_path, capsys):
    assert main(["tiny", "--out", str(tmp_path / "run"), "--logging.peak_tflops", "0"]) == 2
    assert "logging.peak_tflops is 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
