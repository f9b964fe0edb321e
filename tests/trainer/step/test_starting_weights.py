"""The numbers that a module starts with come to every process, whoever has them."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import processes
from models.stored_weights import StoredWeights
from sharding_facts import IN_FILES, Kinds, write_started
from trainer.step.starting_weights import StoredTensor, keep_in_files, read_stored

SEED_IN_FILES = 77


def write_files(folder):
    """Other numbers than any process has; the rows of one tensor in a type that is not the module's."""
    tensors = {name: tensor.clone() for name, tensor in Kinds(SEED_IN_FILES).state_dict().items() if name in IN_FILES}
    tensors["kept.weight"] = tensors["kept.weight"].float()
    save_file(tensors, folder / "model.safetensors")
    return tensors


def expected_values(in_files):
    expected = {name: tensor.clone() for name, tensor in Kinds(seed=0).state_dict().items()}
    for name, tensor in in_files.items():
        expected[name] = tensor.to(expected[name].dtype)
    expected["tied.weight"] = expected["outside.weight"]
    return expected


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_one_process_reads_into_place(tmp_path):
    in_files = write_files(tmp_path)
    module, weights = Kinds(seed=0), StoredWeights(tmp_path)
    named = dict(module.named_parameters())
    stored = {named[name]: StoredTensor(weights, name) for name in IN_FILES}
    stored = keep_in_files(module, stored, has_others=True)
    assert all(parameter.is_meta for parameter in stored)
    read_stored(module, torch.device("cpu"), stored)
    assert not stored
    assert_equal(module.state_dict(), expected_values(in_files))
    assert {name for name, parameter in module.named_parameters() if not parameter.requires_grad} == {
        *("kept.weight", "kept.bias", "stack.layers.1.weight")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("num", "shard_size", "shard_layers"), [(3, 0, True), (2, 1, True), (4, 2, False)])
def test_several_processes_get_their_rows(tmp_path, num, shard_size, shard_layers):
    in_files = write_files(tmp_path)
    started = partial(write_started, str(tmp_path), str(tmp_path), shard_size, shard_layers)
    assert processes.run(started, num) == [0] * num
    expected = expected_values(in_files)
    found = [torch.load(tmp_path / f"started{rank}.pt") for rank in range(num)]
    for one in found:
        assert_equal(one["values"], expected)
    assert_equal(load_file(tmp_path / "saved.safetensors"), expected)
    module = Kinds(seed=0)
    in_units = [
        parameter
        for name, parameter in module.named_parameters()
        if (name.startswith("stack.") and shard_layers) or parameter.requires_grad
    ]
    apart = sum(parameter.numel() for parameter in in_units)
    everywhere = sum(parameter.numel() for parameter in module.parameters()) - apart
    copies = num // (shard_size or num)
    assert sum(one["held"] for one in found) == copies * apart + num * everywhere
