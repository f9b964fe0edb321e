"""A rank that is killed under `torchrun --max-restarts`: all begin again by themselves and come to the same weights."""

from functools import partial

import pytest

import processes
from bench.agents import Launch, running
from bench.restarts import NUM_RANKS, PATIENCE_S, digest, kill, program, starts, wait_for_start
from trainer.pretrain import main
from trainer.process.interrupt import STOP_FILE
from trainer.run_files import CHECKPOINTS, MODEL
from trainer.step import checkpoint

NUM_STEPS = 8


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    """Of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert processes.run(partial(main, program(out, NUM_STEPS)[1:]), NUM_RANKS) == [0] * NUM_RANKS
    return digest(out)


@pytest.mark.slow  # four starts of Python and torch
@pytest.mark.parametrize(("rendezvous", "num_agents"), [("static", 1), ("c10d", 2)])
def test_a_killed_rank_begins_again_with_the_others(tmp_path, expected, rendezvous, num_agents):
    out = tmp_path / "run"
    launch = Launch(rendezvous, num_agents, NUM_RANKS // num_agents, max_restarts=2)
    with running(launch, program(out, NUM_STEPS), tmp_path) as agents:
        agents.wait_for(lambda: checkpoint.find_latest(out / CHECKPOINTS), PATIENCE_S)
        killed_at = kill(agents, NUM_RANKS - 1)
        wait_for_start(out, killed_at, agents)
        assert agents.wait(PATIENCE_S) == [0] * num_agents, agents.said()
    assert len(starts(out)) == 2
    assert digest(out) == expected


@pytest.mark.slow  # two starts of Python and torch
def test_a_run_that_somebody_stops_does_not_begin_again(tmp_path):
    out = tmp_path / "run"
    launch = Launch("static", num_nodes=2, num_ranks_per_node=1, max_restarts=2)
    with running(launch, program(out, num_steps=1000), tmp_path) as agents:
        agents.wait_for(lambda: checkpoint.find_latest(out / CHECKPOINTS), PATIENCE_S)
        (out / STOP_FILE).touch()
        assert agents.wait(PATIENCE_S) == [0, 0], agents.said()
    assert agents.said().count("STOP_FILE: stopped after step") == 1
    assert len(starts(out)) == 1
    assert not (out / STOP_FILE).exists()
    assert not (out / MODEL).exists()
