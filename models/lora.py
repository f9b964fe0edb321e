"""LoRA: low-rank adapters beside the matrices of the language model, which stay as they are (made by peft)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved

ADAPTER_FOLDER = "adapter"
SETTINGS_FILE = "mm_interleaved_lora.json"
ADAPTER_FILE = "adapter_model.safetensors"
NAME = "default"
"""What peft calls an adapter that has no other name."""


@dataclass(frozen=True)
class LoraConfig:
    """`W x + alpha / rank * B A x`, with A [rank, in] and B [out, rank]; B starts at 0, so that nothing changes at
    first."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Share of x that the adapter does not see in training."""

    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """The matrices of each layer that get an adapter, by the last part of their names."""

    merge: bool = True
    """Whether a saved model has the adapters added to its matrices; else it has them in a file of their own."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not self.targets:
            raise ValueError(
                f"{self} can't be; expected a rank of 1 or more, a dropout from 0 to below 1, and targets."
            )


def add_lora(model: MMInterleaved, config: LoraConfig) -> None:
    """Put new adapters into the language model and take gradients from all else in its host.

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


def merge_lora(model: MMInterleaved) -> None:
    """Add the adapters to their matrices for good; a model without any stays as it is."""
    host = model.language_model.host
    for name, layer in list(_adapted(host)):
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(host.get_submodule(parent), leaf, layer.get_base_layer())
    model.lora = None


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name in a state dict belongs to an adapter."""
    return ".lora_" in name


def matrices(model: MMInterleaved) -> dict[str, Tensor]:
    """The state dict under the names of a model without adapters, as it is below them."""
    state = model.state_dict().items()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state if not is_adapter(name)}


def tensors_to_save(model: MMInterleaved) -> dict[str, Tensor]:
    """The state dict under the names of a model without adapters: with them added if they are to be merged, else the
    matrices as they were."""
    state = matrices(model)
    if model.lora is None or not model.lora.merge:
        return state
    for name, layer in _adapted(model):
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = (weight.float() + layer.get_delta_weight(NAME).float()).to(weight.dtype)
    return state


def save_adapter(model: MMInterleaved, directory: Path) -> None:
    """Write the adapters of a model that keeps them apart."""
    assert model.lora is not None, "asked for only with adapters"
    directory.mkdir(exist_ok=True)
    (directory / SETTINGS_FILE).write_text(json.dumps(asdict(model.lora), indent=2) + "\n")
    write_tensors(directory / ADAPTER_FILE, _adapter_tensors(model))


@torch.no_grad()
def load_adapter(model: MMInterleaved, directory: Path) -> None:
    """Put the adapters in that `save_adapter` wrote.

    Raises:
        ImportError: peft is missing.
        ValueError: they do not fit the model.
    """
    settings: dict[str, Any] = json.loads((directory / SETTINGS_FILE).read_text())
    add_lora(model, LoraConfig(**{**settings, "targets": tuple(settings["targets"])}))
    expected, stored = _adapter_tensors(model), read_tensors(directory / ADAPTER_FILE)
    if differing := sorted(
        name
        for name in expected.keys() | stored.keys()
        if name not in expected or name not in stored or expected[name].shape != stored[name].shape
    ):
        raise ValueError(f"{directory / ADAPTER_FILE} does not fit the language model: {differing[:3]} differ.")
    for name, tensor in expected.items():
        tensor.copy_(stored[name])


def _adapter_tensors(model: MMInterleaved) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.language_model.host.state_dict().items() if is_adapter(name)}


def _adapted(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have an adapter, with their names."""
    yield from ((name, layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A"))
