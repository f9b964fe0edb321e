"""The file for SkyPilot, as SkyPilot itself reads it.

Its versions of some packages are others than this project's, so CI runs this with a Python that has SkyPilot and pytest
alone (`--noconftest`).
"""

from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[2] / "examples" / "training" / "skypilot.yaml"
OUT = "s3://bucket/runs/mine"


@pytest.fixture
def sky(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where it keeps what it knows
    return pytest.importorskip("sky", reason="SkyPilot is not here; it takes a Python of its own")


def test_it_is_a_task_of_eight_nodes_that_may_be_taken_away(sky):
    with pytest.raises(ValueError, match="'OUT' is None"):
        sky.Task.from_yaml(str(FILE))
    task = sky.Task.from_yaml_config(yaml.safe_load(FILE.read_text()), {"OUT": OUT})
    assert task.num_nodes == 8
    [resources] = task.resources
    assert resources.accelerators == {"H100": 8}
    assert resources.use_spot
    assert resources.job_recovery["max_restarts_on_errors"] == 20
    assert task.envs["OUT"] == OUT
    assert '--out "$OUT"' in task.run
