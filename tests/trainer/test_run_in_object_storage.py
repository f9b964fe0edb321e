"""Whole runs whose --out, --resume and --init are in a bucket, beside the same runs on a disk."""

import pytest

from bench import object_servers
from models.digests import file_sha256
from models.object_path import ObjectPath
from models.tensor_files import WEIGHTS_FILE
from trainer.pretrain import main
from trainer.process import lease
from trainer.process.interrupt import EXIT_STOPPED, STOP_FILE
from trainer.process.lease import LEASE_FILE
from trainer.run_files import CHECKPOINTS, LOG, MODEL, PAGE, PROFILE, SETTINGS
from trainer.step import checkpoint
from whole_runs import events, steps

NUM_STEPS = 2
pytestmark = pytest.mark.slow  # eight runs


def train(out, *options):
    return main(
        [
            *("tiny", "--out", str(out), "--device", "cpu", "--num_steps", f"{NUM_STEPS}"),
            *("--encoder_pretraining.num_steps", "0", "--data.num_rows", "1", "--checkpoint.every", "1", *options),
        ]
    )


def weights(run):
    return file_sha256(run / MODEL / WEIGHTS_FILE)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with object_servers.s3_bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield bucket


@pytest.fixture(scope="module")
def stored(bucket):
    """A finished run in the bucket."""
    place = ObjectPath(f"{bucket.url}/runs/stored")
    assert train(place, "--profile.num_steps", "1", "--profile.first_step", "2") == 0
    return place


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same run in a directory."""
    out = tmp_path_factory.mktemp("runs") / "here"
    assert train(out) == 0
    return out


def test_it_is_the_run_that_a_directory_gets(stored, here, capsys):
    assert weights(stored) == weights(here)
    assert steps(stored) == steps(here)
    assert events(stored)[-1] == "done"
    assert [one.step for one in checkpoint.find_all(stored / CHECKPOINTS)] == [1, 2]
    names = {one.name for one in stored.iterdir()}
    assert names == {CHECKPOINTS, LOG, MODEL, PAGE, PROFILE, SETTINGS, "tensorboard"}
    assert {one.name for one in (stored / PROFILE).iterdir()} == {"main-2-2-rank0.json.gz", "main-2-2-rank0.txt"}
    assert train(stored) == 0
    assert f"The run in {stored} is finished; its model is {stored / MODEL}." in capsys.readouterr().out
    assert train(stored, "--resume", "none") == 2
    assert f"{stored} already holds a run, and nothing of it was touched." in capsys.readouterr().err


def test_a_stop_object_ends_it_with_a_checkpoint_and_the_same_command_goes_on(bucket, here, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.01)
    place = ObjectPath(f"{bucket.url}/runs/stopped")
    bucket.put(f"runs/stopped/{STOP_FILE}", b"")
    assert train(place) == EXIT_STOPPED
    assert checkpoint.find_latest(place / CHECKPOINTS).step == 1
    assert not any((place / name).exists() for name in (STOP_FILE, LEASE_FILE, MODEL))
    assert train(place) == 0
    assert weights(place) == weights(here)
    assert [record["step"] for record in steps(place)] == [1, 2]


def test_it_branches_off_into_a_directory_and_into_the_bucket(stored, bucket, here, tmp_path):
    first = stored / CHECKPOINTS / "main-0000001"
    for out in (tmp_path / "branch", ObjectPath(f"{bucket.url}/runs/branch")):
        assert train(out, "--resume", str(first)) == 0
        assert weights(out) == weights(here)
        assert [record["step"] for record in steps(out)] == [2]


def test_a_run_begins_with_a_model_in_the_bucket(stored, here, tmp_path):
    for name, model in (("from-bucket", stored / MODEL), ("from-disk", here / MODEL)):
        assert train(tmp_path / name, "--init", str(model)) == 0
    assert steps(tmp_path / "from-bucket") == steps(tmp_path / "from-disk")
    assert weights(tmp_path / "from-bucket") == weights(tmp_path / "from-disk") != weights(here)
