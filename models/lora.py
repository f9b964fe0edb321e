"""LoRA: low-rank adapters beside the matrices of the language model, which stay as they are (made by peft)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.atomic_files import write_atomically
from models.float8_linear import Float8Linear
from models.json_files import read_json_object
from models.lora_config import LoraConfig
from models.network import Network
from models.safetensors_writer import LazyTensor, Tensors
from models.sharded_tensors import full_tensor
from models.tensor_files import read_tensors, write_tensors

ADAPTER_FOLDER = "adapter"
SETTINGS_FILE = "mm_interleaved_lora.json"
ADAPTER_FILE = "adapter_model.safetensors"
NAME = "default"
"""What peft calls an adapter that has no other name."""


def add_lora(model: Network, config: LoraConfig) -> None:
    """Put new adapters into the language model and freeze all else in its host.

    The synchronizers are no part of the host and go on training.

    Raises:
        ImportError: peft is missing.
        ValueError: the model has adapters already, or no matrix has the name of a target.
    """
    if model.lora is not None:
        raise ValueError("The language model has adapters already. Merge them first: models.lora.merge_lora(model).")
    try:
        peft = import_module("peft")
    except ModuleNotFoundError as error:
        raise ImportError("LoRA needs peft: pip install 'mmfs[lora]'.") from error
    host = model.language_model.host
    known = {name.rpartition(".")[2] for name, module in host.named_modules() if isinstance(module, torch.nn.Linear)}
    if unknown := sorted(set(config.targets) - known):
        raise ValueError(f"No matrix of the language model is called {', '.join(unknown)}; expected {sorted(known)}.")
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    peft.inject_adapter_in_model(settings, host)
    model.lora = config


def merge_lora(model: Network) -> None:
    """Merge the adapters into their matrices permanently; does nothing without adapters."""
    host = model.language_model.host
    for name, layer in list(_adapted(host)):
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(host.get_submodule(parent), leaf, layer.get_base_layer())
    model.lora = None


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name in a state dict belongs to an adapter."""
    return ".lora_" in name


def matrices(model: Network) -> dict[str, Tensor]:
    """The state dict under the names of a model without adapters, with the matrices below the adapters."""
    state = model.state_dict().items()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state if not is_adapter(name)}


def tensors_to_save(model: Network) -> Tensors:
    """The state dict under the names of a model without adapters: with the adapters merged if the options say so, one
    matrix after the other as they are written; else without them. What is held in float8 is written as it was before.

    Raises:
        ValueError: there are adapters that would be left out of both: made by peft itself, and not by `add_lora`.
    """
    state: dict[str, Tensor | LazyTensor] = dict(matrices(model))
    for name, layer in model.named_modules():
        if isinstance(layer, Float8Linear):
            plain_name = f"{name}.".replace(".base_layer.", ".")
            del state[f"{plain_name}weight_scale"]
            state[f"{plain_name}weight"] = LazyTensor(layer.dtype, layer.weight.shape, layer.full_weight)
    if (model.lora is None or not model.lora.merge) and (lost := _strange_adapters(model)):
        raise ValueError(
            f"The model has adapters outside of those that models.lora.add_lora makes, {len(lost)} tensors such as "
            f"{lost[0]!r}, which would not be saved. Merge them first: layer.merge() of each, or peft's "
            "merge_and_unload."
        )
    if model.lora is None or not model.lora.merge:
        return state
    for name, layer in _adapted(model):
        base = layer.get_base_layer()
        dtype = base.dtype if isinstance(base, Float8Linear) else base.weight.dtype
        state[f"{name}.weight"] = LazyTensor(dtype, base.weight.shape, partial(_merged, layer))
    return state


def _merged(layer: Any) -> Tensor:
    """The matrix of an adapted layer with its adapter."""
    base = layer.get_base_layer()
    weight = base.full_weight() if isinstance(base, Float8Linear) else full_tensor(base.weight)
    change = layer.get_delta_weight(NAME)
    return (weight.float() + full_tensor(change).float()).to(weight.dtype)


def save_adapter(model: Network, directory: Path, *, is_main_process: bool = True) -> None:
    """Write the adapters of a model that keeps them apart; see `models.tensor_files.write_tensors`."""
    assert model.lora is not None, "asked for only with adapters"
    if is_main_process:
        directory.mkdir(exist_ok=True)
        write_atomically(directory / SETTINGS_FILE, json.dumps(asdict(model.lora), indent=2) + "\n")
    write_tensors(directory / ADAPTER_FILE, _adapter_tensors(model), is_main_process=is_main_process)


@torch.no_grad()
def load_adapter(model: Network, directory: Path) -> None:
    """Load the adapters that `save_adapter` wrote.

    Raises:
        ImportError: peft is missing.
        ValueError: a file is damaged, or they do not fit the model.
    """
    settings, stored = read_json_object(directory / SETTINGS_FILE), read_tensors(directory / ADAPTER_FILE)
    try:
        config = LoraConfig(**{**settings, "targets": tuple(settings["targets"])})
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{directory / SETTINGS_FILE} is of another form ({error}). Save the adapters again."
        ) from error
    if {len(tensor) for name, tensor in stored.items() if ".lora_A." in name and tensor.ndim} != {config.rank}:
        raise ValueError(f"{directory / ADAPTER_FILE} has no adapters of rank {config.rank}, as {SETTINGS_FILE} says.")
    add_lora(model, config)
    expected = _adapter_tensors(model)
    if differing := sorted(
        name
        for name in expected.keys() | stored.keys()
        if name not in expected or name not in stored or expected[name].shape != stored[name].shape
    ):
        raise ValueError(
            f"{directory / ADAPTER_FILE} does not fit the language model: {len(differing)} tensors differ "
            f"{differing[:3]}. Put it beside the model that it was saved with."
        )
    for name, tensor in expected.items():
        tensor.copy_(stored[name])


def _adapter_tensors(model: Network) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.language_model.host.state_dict().items() if is_adapter(name)}


def _strange_adapters(model: Network) -> list[str]:
    host = "" if model.lora is None else "language_model.host."
    return [name for name in model.state_dict() if is_adapter(name) and not (host and name.startswith(host))]


def _adapted(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have an adapter, with their names."""
    yield from ((name, layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A"))
