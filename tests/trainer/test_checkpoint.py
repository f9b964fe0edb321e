import json

import pytest
import torch
from torch import nn

from trainer import checkpoint
from trainer.config import UsageError


def save(directory, step, *, module=None, phase="main", phase_index=1, keep=2, state=None):
    return checkpoint.save(
        directory,
        phase=phase,
        phase_index=phase_index,
        step=step,
        config={"seed": 3},
        module=module or nn.Linear(2, 3),
        state=state or {"step": torch.tensor(step)},
        keep=keep,
    )


def names(directory):
    return [found.path.name for found in checkpoint.find_all(directory)]


def test_what_is_saved_is_what_is_loaded(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(2, 3))
    module[2].weight = module[0].weight  # tied weights are stored once
    state = {"numbers": torch.arange(3), "nested": {"none": None, "tuple": (1, 2.5, "x")}}
    path = save(tmp_path, 12, module=module, state=state)
    found = checkpoint.read(path)
    assert (found.phase, found.phase_index, found.step, found.config) == ("main", 1, 12, {"seed": 3})
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(2, 3))
    other[2].weight = other[0].weight
    loaded = found.load(other)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert torch.equal(loaded["numbers"], state["numbers"])
    assert loaded["nested"] == state["nested"]


def test_keeps_the_newest_and_points_to_the_latest(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, phase="encoder", phase_index=0)
    for step in (1, 10, 9):  # not written in order of step: resumed runs never do that, but the order must not matter
        save(tmp_path, step, keep=3)
    assert names(tmp_path) == ["main-0000001", "main-0000009", "main-0000010"]
    save(tmp_path, 11, keep=1)
    assert names(tmp_path) == ["main-0000011"]
    assert (tmp_path / "LATEST").read_text() == "main-0000011\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "main-0000011"]


@pytest.mark.parametrize("during", ["save_model", "torch.save", "_sync"])
def test_a_killed_save_changes_nothing(tmp_path, monkeypatch, during):
    kept = save(tmp_path, 1)

    def die(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*{"torch.save": (torch, "save")}.get(during, (checkpoint, during)), die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, keep=1)
    assert checkpoint.find_latest(tmp_path).path == kept
    assert (tmp_path / "LATEST").read_text() == "main-0000001\n"
    save(tmp_path, 2, keep=1)  # and the next save is not in the way of the remains
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "main-0000002"]


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("how", ["missing", "short"])
def test_a_half_checkpoint_is_not_found(tmp_path, name, how):
    kept, broken = save(tmp_path, 1), save(tmp_path, 2)
    file = broken / name
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-7])
    assert checkpoint.read(broken) is None
    assert checkpoint.find_latest(tmp_path).path == kept
    assert checkpoint.read(save(tmp_path, 2)) is not None  # written anew over the broken one


def test_a_complete_checkpoint_is_not_written_again(tmp_path):
    path = save(tmp_path, 1)
    before = (path / checkpoint.WEIGHTS).read_bytes()
    save(tmp_path, 1, module=nn.Linear(2, 3))
    assert (path / checkpoint.WEIGHTS).read_bytes() == before


def test_find_takes_a_checkpoint_or_a_run(tmp_path):
    path = save(tmp_path / "checkpoints", 4)
    assert checkpoint.find(path).path == path
    assert checkpoint.find(tmp_path).path == path
    with pytest.raises(UsageError, match=r"neither a complete checkpoint nor a run directory.*weights.safetensors"):
        checkpoint.find(tmp_path / "elsewhere")


def test_weights_of_another_module_are_refused(tmp_path):
    found = checkpoint.read(save(tmp_path, 1))
    with pytest.raises(RuntimeError, match="size mismatch"):
        found.load(nn.Linear(3, 3))


def test_the_manifest_is_plain_json(tmp_path):
    manifest = json.loads((save(tmp_path, 5) / checkpoint.MANIFEST).read_text())
    assert manifest["step"] == 5
    assert set(manifest["file_sizes_bytes"]) == {checkpoint.WEIGHTS, checkpoint.STATE}
