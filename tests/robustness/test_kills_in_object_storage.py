"""Runs into a bucket that are killed at random moments and requests, as `bench.object_storage_kills` has it."""

import itertools
import random
from dataclasses import replace

import pytest

from bench.object_storage_kills import (
    PATIENCE_S,
    Moment,
    Whole,
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


def completing_requests(whole: Whole) -> list[int]:
    """Those that make a checkpoint complete, counted from 1."""
    asked = ((one.method, one.path.rpartition("/")[2]) for one in whole.requests)
    return [number for number, request in enumerate(asked, 1) if request == ("PUT", MANIFEST)]


def test_the_same_command_goes_on_to_the_same_end(runs, whole, expected):
    seed = random.randrange(2**32)
    moments = itertools.islice(random_moments(random.Random(seed), whole), NUM_KILLS)
    killed = runs.killed("random", whole, expected, moments)
    assert (killed.exit_code, killed.problems) == (0, ()), (seed, runs.said("random"))


def test_a_first_checkpoint_that_was_never_completed_stands_in_nobodys_way(runs, whole, expected):
    completes, *_ = completing_requests(whole)
    killed = runs.killed("first", whole, expected, iter([Moment(PATIENCE_S, completes)]))
    assert len(killed.moments) == 1
    assert (killed.exit_code, killed.problems) == (0, ()), runs.said("first")


def test_ranks_begin_again_together_where_one_was_killed(tmp_path):
    seed = random.randrange(2**32)
    expected = weights_on_a_disk(tmp_path, NUM_STEPS, NUM_RANKS)
    with runs_into_a_bucket(tmp_path, NUM_STEPS, NUM_RANKS) as runs:
        whole = runs.undisturbed("whole")
        generator = random.Random(seed)
        first, *_, last = completing_requests(whole)
        between = generator.randint(first + 1, last)  # so that there is a checkpoint to go on from
        moment = replace(random_request(generator, whole, NUM_RANKS), request=between)
        killed = runs.killed_ranks("ranks", whole, expected, [moment])
        assert len(killed.moments) == 1, runs.said("ranks")
        assert (killed.exit_code, killed.problems) == (0, ()), (seed, runs.said("ranks"))
