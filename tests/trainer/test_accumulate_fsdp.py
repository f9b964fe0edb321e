import os
import subprocess
import sys
from pathlib import Path

import pytest

PROCESS = Path(__file__).with_name("accumulate_under_fsdp.py")


@pytest.mark.slow
def test_sharded_processes_get_the_gradient_of_one(tmp_path: Path) -> None:
    """Two processes with gloo; one of them has micro-batches without drawn images and without any image."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error:FSDP2", PROCESS, tmp_path / "store", str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
