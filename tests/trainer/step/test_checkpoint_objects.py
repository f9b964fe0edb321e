"""Checkpoints in object storage, as moto's S3 server has it."""

import pytest
import torch
from torch import nn

from bench import object_servers
from models import object_storage
from models.object_path import ObjectPath
from models.object_storage import StorageError
from trainer.config import OptimConfig
from trainer.process.distributed import joined
from trainer.step import checkpoint
from trainer.step.checkpoint import Saver
from trainer.step.checkpoint_files import files_at
from trainer.step.optimizer import make_optimizer
from trainer.step.training_state import TrainingState, learned_names


@pytest.fixture
def processes():
    with joined(torch.device("cpu")) as alone:
        yield alone


def state_of(module, processes):
    return TrainingState(
        module, learned_names(module), make_optimizer(module, OptimConfig(lr=0.1)), None, processes, seed=7
    )


def save(place, step, processes, module=None, **options):
    with Saver(place, processes, keep_latest=2, **options) as saver:
        state = state_of(module or nn.Linear(2, 3), processes)
        saver.save(state, phase="main", phase_index=1, step=step, config={"seed": 3}, base={})
    return saver.latest


def below(bucket, name):
    return sorted(one.removeprefix(f"{name}/") for one in bucket.names() if one.startswith(f"{name}/"))


def test_what_is_saved_is_loaded_and_old_ones_go(bucket, processes):
    place = ObjectPath(f"{bucket.url}/loaded")
    module, other = nn.Linear(2, 3), nn.Linear(2, 3)
    seen = []
    for step in (1, 2, 3):
        save(place, step, processes, module, before_complete=lambda: seen.append(checkpoint.find_latest(place)))
    assert [None if one is None else one.step for one in seen] == [None, 1, 2]  # called before it is complete
    assert [one.step for one in checkpoint.find_all(place)] == [2, 3]
    assert below(bucket, "loaded") == [
        "LATEST",
        *(
            f"main-000000{n}/{name}"
            for n in (2, 3)
            for name in ("checkpoint.json", "state/.metadata", "state/__0_0.distcp")
        ),
    ]
    assert (place / "LATEST").read_text() == "main-0000003\n"
    found = checkpoint.find(place / "main-0000003")
    assert found.damaged_files(processes) == []
    found.load(state_of(other, processes), {}, processes)
    assert torch.equal(other.weight, module.weight)


def test_what_lies_together_is_read_in_few_requests(bucket, processes, monkeypatch):
    module, other = (nn.Sequential(*(nn.Linear(2, 3) for _ in range(40))) for _ in range(2))
    path = save(ObjectPath(f"{bucket.url}/many"), 1, processes, module)
    with object_servers.serving(behind=bucket.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        object_storage.filesystem_of(bucket.url).clear_instance_cache()
        found = checkpoint.read(path)
        proxy.requests.clear()
        found.load(state_of(other, processes), {}, processes)
        num_gets = sum(count for name, count in proxy.gets().items() if name.endswith(".distcp"))
        num_bytes = (path / "state" / "__0_0.distcp").stat().st_size
    object_storage.filesystem_of(bucket.url).clear_instance_cache()
    assert torch.equal(other[39].weight, module[39].weight)
    assert num_gets <= 2 + num_bytes // object_storage.SMALL_BLOCK, "not one for each of 240 tensors"


def test_what_has_no_manifest_is_no_checkpoint_and_is_removed(bucket, processes):
    place = ObjectPath(f"{bucket.url}/killed")
    save(place, 1, processes)
    bucket.put("killed/main-0000002/state/__0_0.distcp", b"half of it")
    assert checkpoint.find_latest(place).step == 1
    assert checkpoint.find_incomplete(place) == [], "it was never complete"
    checkpoint.remove_left_over(place, keep_latest=2)
    assert not any(name.startswith("main-0000002") for name in below(bucket, "killed"))
    bucket.put("killed/main-0000002/state/__0_0.distcp", b"half of it")
    assert checkpoint.read(save(place, 2, processes)).damaged_files(processes) == []


def test_a_damaged_one_is_put_aside(bucket, processes):
    place = ObjectPath(f"{bucket.url}/damaged")
    save(place, 1, processes)
    path = save(place, 2, processes)
    tensors = path / "state" / "__0_0.distcp"
    content = bytearray(tensors.read_bytes())
    content[-9] ^= 4
    bucket.put("damaged/main-0000002/state/__0_0.distcp", bytes(content))
    found = checkpoint.read(path)
    assert found.damaged_files(processes) == ["state/__0_0.distcp"]
    checkpoint.put_aside(found)
    assert checkpoint.find_latest(place).step == 1
    assert checkpoint.find_incomplete(place) == [], "it is known"
    files_at(place).remove_unfinished()
    assert tensors.is_file(), "a person may look at it"


def test_one_that_has_lost_a_file_is_told_of(bucket, processes):
    place = ObjectPath(f"{bucket.url}/lost")
    path = save(place, 1, processes)
    bucket.delete("lost/main-0000001/state/__0_0.distcp")
    assert checkpoint.find_latest(place) is None
    assert checkpoint.find_incomplete(place) == [path]


def test_storage_that_fails_leaves_the_last_complete_checkpoint(bucket, processes, monkeypatch):
    with object_servers.serving(behind=bucket.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setattr(object_storage, "FIRST_PAUSE", 0.0)
        monkeypatch.setattr(object_storage, "NUM_TRIES", 2)
        object_storage.filesystem_of(bucket.url).clear_instance_cache()
        place = ObjectPath(f"{bucket.url}/failing")
        state = state_of(nn.Linear(2, 3), processes)
        saver = Saver(place, processes, keep_latest=2)
        facts = {"phase": "main", "phase_index": 1, "config": {}, "base": {}}
        saver.save(state, step=1, **facts)
        saver.finish()
        proxy.fault = lambda request, number: 503 if "main-0000002/state" in request.path else None
        saver.save(state, step=2, **facts)
        with pytest.raises(
            StorageError, match=r"could not be .* 2 tries: .*The last complete checkpoint is .*-0000001;"
        ):
            saver.finish()
        proxy.fault = lambda request, number: None
        assert checkpoint.find_latest(place).path == saver.latest == place / "main-0000001"
        proxy.fault = lambda request, number: 503 if number < 1 and request.method == "PUT" else None
        assert save(place, 3, processes).name == "main-0000003"  # once is not too often
        proxy.fault = lambda request, number: 503
        with pytest.raises(StorageError, match="tries"):  # and not: there is none, begin again from the start
            checkpoint.find_latest(place)
    object_storage.filesystem_of(bucket.url).clear_instance_cache()
