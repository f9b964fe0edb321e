"""The files for several nodes: by the schema of Kubernetes, on stand-ins for SLURM and SkyPilot's nodes, by torchrun's
own parser."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import config_from_args, parse_args

from trainer.options.parser import parse
from trainer.recipes import DEFAULT_RECIPE, RECIPES

FILES = Path(__file__).parents[2] / "examples" / "training"
PATIENCE_S = 300
"""For what takes a second on a free machine."""

STAND_INS = {
    "scontrol": """#!/bin/bash
        if [ "$1" = show ]; then printf 'node-a\\nnode-b\\n'; else echo "$@" >> "$RECORD.scontrol"; fi""",
    # Each node at the same time, as srun does it.
    "srun": """#!/bin/bash
        [ "$1" = --kill-on-bad-exit=1 ] && shift
        SLURM_NODEID=0 "$@" & first=$!
        SLURM_NODEID=1 "$@" && wait $first""",
    "torchrun": """#!/usr/bin/env python3
import json, os, sys, time
place = sys.argv[sys.argv.index("--node-rank") + 1]
with open(f"{os.environ['RECORD']}.{place}", "w") as file:
    json.dump(sys.argv[1:], file)
while os.environ.get("UNTIL_STOP") and not os.path.exists(os.environ["STOP_FILE"]):
    time.sleep(0.02)
sys.exit(int(os.environ.get("STATUS", 0)))
""",
}


@pytest.fixture
def slurm(tmp_path):
    """Starts the script in what looks like a job of two nodes to it."""
    for name, program in STAND_INS.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "out dir").mkdir()

    def start(*arguments, **variables):
        job = {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_JOB_NODELIST": "node-[a-b]",
        }
        path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
        out = tmp_path / "out dir"
        ours = {"OUT": str(out), "STOP_FILE": str(out / "STOP"), "RECORD": str(tmp_path / "given"), "PATH": path}
        return subprocess.Popen(
            ["bash", FILES / "slurm.sbatch", *arguments], env={**os.environ, **job, **ours, **variables}
        )

    return start


def check_torchrun(arguments, *, node, num_nodes):
    """By torchrun's own parser and ours; returns the settings of the run."""
    options = parse_args(arguments)
    config, _, program = config_from_args(options)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (num_nodes, num_nodes, 8)
    assert config.rdzv_configs["rank"] == node
    assert config.rdzv_endpoint.endswith(":29500")
    assert config.max_restarts > 0
    assert options.training_script == "trainer.pretrain"
    return config, parse(program[program.index("trainer.pretrain") + 1 :], RECIPES, DEFAULT_RECIPE).config


def test_slurm_starts_each_node_with_its_number(slurm, tmp_path):
    assert slurm("toy", "--num_steps", "5").wait(PATIENCE_S) == 0
    for node in range(2):
        config, run = check_torchrun(json.loads((tmp_path / f"given.{node}").read_text()), node=node, num_nodes=2)
        assert config.rdzv_endpoint == "node-a:29500"
        assert (run.recipe, run.num_steps, run.out) == ("toy", 5, str(tmp_path / "out dir"))
        assert run.logging.every_rank


def test_slurm_ends_as_the_run_ends(slurm, tmp_path):
    assert slurm("toy", STATUS="4").wait(PATIENCE_S) == 4
    assert not (tmp_path / "given.scontrol").exists()


@pytest.mark.parametrize("scheme", ["", "file://"], ids=["on-a-disk", "at-a-url"])
def test_slurm_stops_the_run_and_puts_the_job_back_before_its_time_is_over(slurm, tmp_path, scheme):
    places = {"OUT": f"{scheme}{tmp_path}/out dir", "LOGS": str(tmp_path / "logs")}
    job = slurm("toy", UNTIL_STOP="yes", STATUS="1", **places)
    give_up = time.monotonic() + PATIENCE_S
    while not (tmp_path / "given.1").exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert not (tmp_path / "out dir" / "STOP").exists()
    job.send_signal(signal.SIGUSR1)
    assert job.wait(PATIENCE_S) == 0
    assert (tmp_path / "given.scontrol").read_text() == "requeue 7\n"


def test_slurm_says_what_is_missing(slurm, capfd):
    assert slurm("toy", OUT="").wait(PATIENCE_S) != 0
    assert "expected the run directory" in capfd.readouterr().err
    assert slurm("toy", OUT="s3://bucket/run").wait(PATIENCE_S) != 0
    assert "expected a folder for what ranks say" in capfd.readouterr().err


def test_slurm_takes_a_run_in_a_bucket(slurm, tmp_path):
    assert slurm("toy", OUT="s3://bucket/run", LOGS=str(tmp_path / "logs")).wait(PATIENCE_S) == 0
    config, run = check_torchrun(json.loads((tmp_path / "given.1").read_text()), node=1, num_nodes=2)
    assert run.out == "s3://bucket/run"
    assert config.logs_specs.root_log_dir.startswith(str(tmp_path / "logs"))


def test_skypilot_starts_each_node_with_its_number(tmp_path):
    """`tests/examples/test_skypilot.py` has what SkyPilot itself says of the file."""
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(STAND_INS["torchrun"])
    torchrun.chmod(0o755)
    task = yaml.safe_load((FILES / "skypilot.yaml").read_text())
    ours = {
        **{name: value for name, value in task["envs"].items() if value is not None},
        **{"SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6\n", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "8"},
        **{"OUT": "s3://bucket/run", "RECORD": str(tmp_path / "given")},
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    (tmp_path / "run.yaml").write_text("num_steps: 5\n")
    for node in range(2):
        script = ["bash", "-euc", task["run"]]
        subprocess.run(script, env={**os.environ, **ours, "SKYPILOT_NODE_RANK": f"{node}"}, check=True)
        arguments = json.loads((tmp_path / f"given.{node}").read_text())
        arguments[arguments.index("run.yaml")] = str(tmp_path / "run.yaml")
        config, run = check_torchrun(arguments, node=node, num_nodes=2)
        assert config.rdzv_endpoint == "10.0.0.5:29500"
        assert (run.recipe, run.num_steps, run.out) == ("paper_13b", 5, "s3://bucket/run")


def test_the_job_of_kubernetes():
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    service, job = yaml.safe_load_all((FILES / "kubernetes_job.yaml").read_text())
    for document in (service, job):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    spec = job["spec"]["template"]["spec"]
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert spec["subdomain"] == service["metadata"]["name"]
    [container] = spec["containers"]
    assert container["command"] == ["torchrun"]
    arguments = [
        argument.replace("$(JOB_COMPLETION_INDEX)", "3") for argument in container["args"] if "--config" not in argument
    ]
    config, run = check_torchrun(arguments, node=3, num_nodes=job["spec"]["completions"])
    assert config.rdzv_endpoint == f"{name}-0.{service['metadata']['name']}:29500"
    assert run.recipe == "paper_13b"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}
