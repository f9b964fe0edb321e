import hashlib
import json
import os
import shutil
from contextlib import suppress

import pytest
import torch
from torch import nn

from trainer.config import OptimConfig
from trainer.errors import UsageError
from trainer.process.distributed import joined
from trainer.step import checkpoint
from trainer.step.checkpoint import Saver
from trainer.step.checkpoint_files import files_at
from trainer.step.checkpoint_manifest import manifest_text
from trainer.step.ema import WeightEMA
from trainer.step.optimizer import make_optimizer
from trainer.step.training_state import TrainingState, fingerprint, frozen_names, learned_names

BASE = {"language_model.host": "0123"}


@pytest.fixture
def processes():
    with joined(torch.device("cpu")) as alone:
        yield alone


def small():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(2, 3))


def state_of(module, processes, *, steps=0, decay=0.5):
    learned = learned_names(module)
    optimizer = make_optimizer(module, OptimConfig(lr=0.1))
    average = WeightEMA(module, decay) if decay else None
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        if average is not None:
            average.update()
    return TrainingState(module, learned, optimizer, average, processes, seed=7)


def begin(saver, step, state, *, phase="main", phase_index=1):
    saver.save(state, phase=phase, phase_index=phase_index, step=step, config={"seed": 3}, base=BASE)


def save(directory, step, processes, *, state=None, keep_latest=2, **options):
    with Saver(directory, processes, keep_latest=keep_latest) as saver:
        begin(saver, step, state or state_of(nn.Linear(2, 3), processes), **options)
    return saver.latest


def names(directory):
    return [found.path.name for found in checkpoint.find_all(directory)]


def test_what_is_saved_is_what_is_loaded(tmp_path, processes):
    module, other = small(), small()
    for either in (module, other):
        either[2].weight = either[0].weight  # tied weights are stored once
    module[1].running_mean += 3
    saved, loaded = state_of(module, processes, steps=2), state_of(other, processes)
    saved.num_skipped = 2
    found = checkpoint.read(save(tmp_path, 12, processes, state=saved))
    assert (found.phase, found.phase_index, found.step, found.config) == ("main", 1, 12, {"seed": 3})
    drawn = torch.rand(3)
    found.load(loaded, BASE, processes)
    assert torch.equal(torch.rand(3), drawn)  # the random numbers go on where they were saved
    theirs, ours = loaded.tensors(), saved.tensors()
    assert theirs.keys() == ours.keys()
    assert {name.partition("/")[0] for name in ours} == {"weights", "optimizer", "average", "num_skipped", "random"}
    for name in ours:
        if not name.startswith("random/"):
            assert torch.equal(theirs[name], ours[name]), name
    assert other[1].running_mean.mean() == 3
    assert loaded.num_skipped == 2


def test_a_parameter_that_never_had_a_gradient_has_no_moments_afterwards(tmp_path, processes):
    module, other = small(), small()
    saved = state_of(module, processes)
    module[0].weight.grad = torch.ones_like(module[0].weight)
    saved._optimizer.step()
    loaded = state_of(other, processes, steps=1)
    fresh = state_of(other, processes)
    checkpoint.find(save(tmp_path, 1, processes, state=saved)).load(fresh, BASE, processes)
    with_moments = {name.split("/")[1] for name in fresh.tensors() if name.startswith("optimizer/")}
    assert with_moments == {"0.weight"}
    assert len({name.split("/")[1] for name in loaded.tensors() if name.startswith("optimizer/")}) == 6


def test_a_save_is_of_the_moment_when_it_began(tmp_path, processes):
    module = nn.Linear(2, 3)
    before = module.weight.detach().clone()
    with Saver(tmp_path, processes, keep_latest=1) as saver:
        begin(saver, 1, state_of(module, processes))
        nn.init.zeros_(module.weight)
    loaded = nn.Linear(2, 3)
    checkpoint.find(saver.latest).load(state_of(loaded, processes), BASE, processes)
    assert torch.equal(loaded.weight, before)


def test_keeps_the_newest_and_points_to_the_latest(tmp_path, processes):
    for step in (1, 2):
        save(tmp_path, step, processes, phase="encoder", phase_index=0)
    for step in (1, 10, 9):  # not written in order of step: resumed runs never do that, but the order must not matter
        save(tmp_path, step, processes, keep_latest=3)
    assert names(tmp_path) == ["main-0000001", "main-0000009", "main-0000010"]
    save(tmp_path, 11, processes, keep_latest=1)
    assert names(tmp_path) == ["main-0000011"]
    assert (tmp_path / "LATEST").read_text() == "main-0000011\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "main-0000011"]


def test_a_killed_save_changes_nothing(tmp_path, processes):
    kept = save(tmp_path, 1, processes)
    elsewhere = save(tmp_path / "elsewhere", 2, processes)
    # All its files are there, and nobody lived to complete it.
    shutil.copytree(
        elsewhere / checkpoint.STATE, files_at(tmp_path).aside(tmp_path / elsewhere.name) / checkpoint.STATE
    )
    shutil.rmtree(elsewhere.parent)
    assert checkpoint.find_latest(tmp_path).path == kept
    assert (tmp_path / "LATEST").read_text() == "main-0000001\n"
    save(tmp_path, 2, processes, keep_latest=1)  # and the next save is not in the way of the remains
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "main-0000002"]


def test_files_on_a_disk_that_the_first_process_does_not_see(tmp_path, processes):
    final = save(tmp_path, 1, processes)
    final.rename(files_at(tmp_path).aside(final))
    (files_at(tmp_path).aside(final) / checkpoint.STATE / "__0_0.distcp").unlink()
    with pytest.raises(UsageError, match=r"lacks state/__0_0.distcp.*an out directory that all of them share"):
        checkpoint.complete(final, {})
    assert checkpoint.find_latest(tmp_path) is None


def test_a_save_that_fails_says_so_and_changes_nothing(tmp_path, processes, monkeypatch):
    kept = save(tmp_path, 1, processes)

    def disk_full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "complete", disk_full)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path, 2, processes)
    assert checkpoint.find_latest(tmp_path).path == kept


@pytest.mark.parametrize("name", ["state/.metadata", "state/__0_0.distcp", checkpoint.MANIFEST])
@pytest.mark.parametrize("how", ["missing", "short"])
def test_a_half_checkpoint_is_not_found(tmp_path, processes, name, how):
    kept, broken = save(tmp_path, 1, processes), save(tmp_path, 2, processes)
    file = broken / name
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-7])
    assert checkpoint.read(broken) is None
    assert checkpoint.find_latest(tmp_path).path == kept
    assert checkpoint.read(save(tmp_path, 2, processes)) is not None  # written anew over the broken one


def test_a_complete_checkpoint_is_not_written_again(tmp_path, processes):
    path = save(tmp_path, 1, processes)
    before = (path / checkpoint.STATE / "__0_0.distcp").read_bytes()
    save(tmp_path, 1, processes)
    assert (path / checkpoint.STATE / "__0_0.distcp").read_bytes() == before


def flip(file, position=-9):
    content = bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["state/.metadata", "state/__0_0.distcp"])
def test_a_flipped_bit_is_found(tmp_path, processes, name):
    found = checkpoint.read(save(tmp_path, 1, processes))
    assert found.damaged_files(processes) == []
    assert found.num_bytes == sum(file.stat().st_size for file in (found.path / "state").iterdir())
    for position in (0, found.num_bytes // 3 % (found.path / name).stat().st_size, -1):
        flip(found.path / name, position)
        assert checkpoint.read(found.path) == found, "sizes are as they were"
        assert found.damaged_files(processes) == [name]
        flip(found.path / name, position)
    (found.path / name).unlink()
    assert found.damaged_files(processes) == [name]


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path, processes):
    kept, broken = save(tmp_path, 1, processes), save(tmp_path, 2, processes)
    file = broken / checkpoint.MANIFEST
    whole = checkpoint.read(broken)
    for position in range(file.stat().st_size):
        flip(file, position)
        found = checkpoint.read(broken)
        assert found is None or found == whole, position  # white space is no content
        flip(file, position)
    flip(file, file.read_text().index('"step"'))
    assert checkpoint.find_latest(tmp_path).path == kept
    assert checkpoint.find_incomplete(tmp_path) == [broken]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        "null",
        '"text"',
        "{}",
        "[" * 100_000,
        '{"phase": 1}',
        "\x00",
        '{"file_sizes_bytes": []}',
        '{"file_sizes_bytes": {"state/.metadata": "4"}}',
        '{"step": "2"}',
        '{"step": 1e400}',
        '{"step": true}',
        '{"base": [1]}',
        '{"config": null}',
        '{"file_sizes_bytes": {"../../../etc/passwd": 1}}',
        '{"file_sizes_bytes": {"/etc/passwd": 1}}',
        '{"file_sizes_bytes": {"a\\u0000b": 1}}',
    ],
)
def test_a_manifest_of_another_form_does_not_stop_the_search(tmp_path, processes, content):
    kept, broken = save(tmp_path, 1, processes), save(tmp_path, 2, processes)
    file = broken / checkpoint.MANIFEST
    if content.startswith("{") and content != "{}":  # one entry of another form, in a file that is whole otherwise
        facts = json.loads(file.read_text()) | json.loads(content)
        del facts["own_sha256"]
        content = manifest_text(facts)
    file.write_text(content)
    assert checkpoint.read(broken) is None
    assert checkpoint.find_latest(tmp_path).path == kept


def test_a_checkpoint_of_an_earlier_version_has_no_digests_and_is_read(tmp_path, processes):
    path = save(tmp_path, 1, processes)
    facts = json.loads((path / checkpoint.MANIFEST).read_text())
    del facts["own_sha256"], facts["sha256"]
    (path / checkpoint.MANIFEST).write_text(json.dumps(facts))
    found = checkpoint.find(path)
    assert found.sha256 == {}
    assert found.damaged_files(processes) == []


def test_a_damaged_one_is_put_aside_and_made_again(tmp_path, processes):
    kept, broken = save(tmp_path, 1, processes), save(tmp_path, 2, processes)
    flip(broken / "state" / "__0_0.distcp")
    checkpoint.put_aside(checkpoint.read(broken))
    assert (tmp_path / checkpoint.damaged_name(broken)).is_dir()
    assert checkpoint.find_latest(tmp_path).path == kept
    assert checkpoint.read(save(tmp_path, 2, processes)).damaged_files(processes) == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(6))
def test_a_killed_cleanup_leaves_nothing_for_ever(tmp_path, processes, monkeypatch, after):
    save(tmp_path, 1, processes)
    left, unlink = [after], os.unlink

    def killed(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        unlink(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed)
        with suppress(Killed):
            checkpoint.remove_left_over(tmp_path, 1)
            save(tmp_path, 2, processes, keep_latest=1)
    assert all(len(list((path / "state").iterdir())) == 2 for path in tmp_path.glob("main-*")), "a half one"
    checkpoint.remove_left_over(tmp_path, 1)  # what the next run does first
    assert [path.name for path in tmp_path.iterdir() if path.name != "LATEST"] == names(tmp_path)
    assert len(names(tmp_path)) == 1


def test_find_takes_a_checkpoint_or_a_run(tmp_path, processes):
    path = save(tmp_path / "checkpoints", 4, processes)
    assert checkpoint.find(path).path == path
    assert checkpoint.find(tmp_path).path == path
    with pytest.raises(UsageError, match=r"neither a complete checkpoint nor a run directory.*checkpoint.json"):
        checkpoint.find(tmp_path / "elsewhere")


def test_another_module_is_refused(tmp_path, processes):
    found = checkpoint.read(save(tmp_path, 1, processes))
    with pytest.raises(UsageError, match=r"of another model: weights/weight, average/weight are not in both, or not"):
        found.load(state_of(nn.Linear(3, 3), processes), BASE, processes)
    with pytest.raises(UsageError, match=r"of another model: average/bias, weights/bias are not in both"):
        found.load(state_of(nn.Linear(2, 3, bias=False), processes), BASE, processes)


def test_other_frozen_weights_are_refused(tmp_path, processes):
    found = checkpoint.read(save(tmp_path, 1, processes))
    with pytest.raises(UsageError, match=r"on top of other frozen weights than this run has in language_model.host"):
        found.load(state_of(nn.Linear(2, 3), processes), {"language_model.host": "4567"}, processes)


def test_the_fingerprint_is_of_frozen_weights_alone():
    module = nn.ModuleDict({"free": nn.Linear(2, 2), "kept": nn.Linear(300, 300).requires_grad_(False)})
    before = fingerprint(module, frozen_names(module))
    assert before.keys() == {"kept.weight", "kept.bias"}
    nn.init.zeros_(module["free"].weight)
    assert fingerprint(module, frozen_names(module)) == before
    weight = module["kept"].weight.data
    weight[[0, 1]] = weight[[1, 0]].clone()  # the same numbers elsewhere
    after = fingerprint(module, frozen_names(module))
    assert [part for part in before if after[part] != before[part]] == ["kept.weight"]
    assert fingerprint(module.bfloat16(), frozen_names(module))["kept.bias"] != before["kept.bias"]


def test_the_manifest_is_plain_json(tmp_path, processes):
    path = save(tmp_path, 5, processes)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    assert manifest["step"] == 5
    assert set(manifest["file_sizes_bytes"]) == {"state/.metadata", "state/__0_0.distcp"}
    assert manifest["sha256"] == {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in manifest["file_sizes_bytes"]
    }
    moved = shutil.move(path, tmp_path / "main-elsewhere")
    assert checkpoint.find(moved).step == 5
