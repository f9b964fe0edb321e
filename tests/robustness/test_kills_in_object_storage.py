"""Runs into a bucket that are killed at random moments and requests, as `bench.object_storage_kills` has it."""

import itertools
import random
from dataclasses import replace

import pytest

from bench.object_storage_kills import (
    PATIENCE_S,
    Moment,
    random_moments,
    random_request,
    runs_into_a_bucket,
    weights_on_a_disk,
)
from trainer.step.checkpoint_manifest import MANIFEST

NUM_STEPS = 2
NUM_KILLS = 4
NUM_RANKS = 2
pytestmark = pytest.mark.slow  # up to eight starts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with runs_into_a_bucket(tmp_path_factory.mktemp("said"), NUM_STEPS) as runs:
        yield runs


@pytest.fixture(scope="module")
def whole(runs):
    return runs.undisturbed("whole")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    return weights_on_a_disk(tmp_path_factory.mktemp("disk"), NUM_STEPS)


def test_the_same_command_goes_on_to_the_same_end(runs, whole, expected):
    seed = random.randrange(2**32)
    moments = itertools.islice(random_moments(random.Random(seed), whole), NUM_KILLS)
    killed = runs.killed("random", whole, expected, moments)
    assert (killed.exit_code, killed.problems) == (0, ()), (seed, runs.said("random"))


def test_a_first_checkpoint_that_was_never_completed_stands_in_nobodys_way(runs, whole, expected):
    asked = [(one.method, one.path.rpartition("/")[2]) for one in whole.requests]
    completes = 1 + asked.index(("PUT", MANIFEST))
    killed = runs.killed("first", whole, expected, iter([Moment(PATIENCE_S, completes)]))
    assert len(killed.moments) == 1
    assert (killed.exit_code, killed.problems) == (0, ()), runs.said("first")


def test_ranks_begin_again_together_where_one_was_killed(tmp_path):
    seed = random.randrange(2**32)
    expected = weights_on_a_disk(tmp_path, NUM_STEPS, NUM_RANKS)
    with runs_into_a_bucket(tmp_path, NUM_STEPS, NUM_RANKS) as runs:
        whole = runs.undisturbed("whole")
        moment = random_request(random.Random(seed), whole, NUM_RANKS)
        moment = replace(moment, request=1 + moment.request // 2)  # the end may come a request sooner
        killed = runs.killed_ranks("ranks", whole, expected, [moment])
        assert len(killed.moments) == 1, runs.said("ranks")
        assert (killed.exit_code, killed.problems) == (0, ()), (seed, runs.said("ranks"))
