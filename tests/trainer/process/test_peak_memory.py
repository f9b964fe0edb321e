from pathlib import Path

import pytest
import torch

from trainer.process.peak_memory import peak_memory_bytes

STATUS = Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists(), reason="Linux alone tells it in another way too")
def test_the_memory_of_this_process():
    said = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    assert peak_memory_bytes(torch.device("cpu")) == pytest.approx(1024 * int(said["VmHWM"].split()[0]), rel=0.01)
