"""All that the next step of a phase depends on besides the settings: as tensors by name, and back.

Parameters that never learn are not among them: the settings say where those come from, and a fingerprint that they are
the same.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.sharded_tensors import full_tensor
from trainer.data.stable_key import stable_key
from trainer.errors import UsageError
from trainer.process.distributed import Processes
from trainer.step.ema import WeightEMA

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of a parameter."""

NUMPY_WORDS = 624
"""Words of the state of NumPy's Mersenne Twister."""


def learned_names(module: nn.Module) -> list[str]:
    """Names of what training may change: trainable parameters, and buffers that belong to the module's state."""
    persistent = module.state_dict().keys()
    parameters = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return parameters + [name for name, _ in module.named_buffers() if name in persistent]


def frozen_names(module: nn.Module) -> list[str]:
    """Names of the parameters that do not learn."""
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


def fingerprint(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """A hash of some parameters, for each part of the module that has any; those that are sharded are gathered one by
    one, by all processes.

    Sums of their bits, which are the same in any order and so on any device.
    """
    hashes: dict[str, Any] = {}
    parameters = dict(module.named_parameters())
    for name in names:
        values = full_tensor(parameters[name].detach())
        part = ".".join(name.split(".")[:2])
        hashes.setdefault(part, hashlib.blake2b(digest_size=8)).update(
            f"{name} {tuple(values.shape)} {values.dtype} {_bit_sums(values)};".encode()
        )
    return {part: hashed.hexdigest() for part, hashed in hashes.items()}


def _bit_sums(tensor: Tensor, at_once: int = 2**24) -> tuple[int, int]:
    """The sum of a tensor's bits, read as whole numbers, and the same weighted by place."""
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    plain = weighted = 0
    for chunk in tensor.contiguous().view(-1).view(kind).split(at_once):
        numbers = chunk.to(torch.int64)
        places = torch.arange(1, len(numbers) + 1, device=numbers.device)
        plain += int(numbers.sum())
        weighted = 31 * weighted + int((numbers * places).sum())
    return plain, weighted % 2**64


class TrainingState:
    """What a checkpoint of a phase holds, and how it is put back.

    Args:
        module: what learns; its parameters may be sharded.
        learned: `learned_names` of it, from before parts were frozen for this phase alone.
        optimizer: AdamW whose groups carry `names`.
        average: of the same module, or None.
        processes: each has random numbers of its own.
        seed: of the random numbers where there are none to put back, since the number of processes has changed.
    """

    def __init__(
        self,
        module: nn.Module,
        learned: Iterable[str],
        optimizer: torch.optim.Optimizer,
        average: WeightEMA | None,
        processes: Processes,
        *,
        seed: int,
    ) -> None:
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        self._weights = {f"weights/{name}": tensors[name].detach() for name in learned}
        self._optimizer = optimizer
        self._parameters = {
            name: parameter
            for group in optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }
        self._average = average
        self._processes = processes
        self._seed = seed
        self.num_skipped = 0
        """Steps in a row that were skipped until now, for a gradient that was not finite."""

    def tensors(self) -> dict[str, Tensor]:
        """By name; those of one process or shards of all."""
        tensors = dict(self._weights)
        for name, parameter in self._parameters.items():
            for moment, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{moment}"] = value
        if self._average is not None:
            tensors |= {f"average/{name}": value for name, value in self._average.tensors().items()}
        tensors["num_skipped"] = torch.tensor(self.num_skipped)
        tensors[self._random_name] = _packed(random_states())
        return tensors

    @property
    def _random_name(self) -> str:
        return f"random/{self._processes.rank} of {self._processes.num}"

    def places(self, stored: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Tensors to read a checkpoint into; `put_back` takes them.

        Args:
            stored: name and shape of each tensor in the checkpoint.

        Raises:
            UsageError: they are of another module.
        """
        own = dict(self._weights)
        if self._average is not None:
            own |= {f"average/{name}": value for name, value in self._average.tensors().items()}
        kinds = ("weights/", "average/") if self._average is not None else ("weights/",)
        theirs = {name for name in stored if name.startswith(kinds)}
        different = sorted(theirs ^ own.keys()) or [name for name in own if own[name].shape != stored[name]]
        if different:
            raise UsageError(
                f"The checkpoint is of another model: {', '.join(different[:3])} "
                f"{'is' if len(different) == 1 else 'are'} not in both, or not of the same shape."
            )
        places = {name: torch.empty_like(tensor) for name, tensor in own.items()}
        for name, parameter in self._parameters.items():
            for moment in MOMENTS:
                if (key := f"optimizer/{name}/{moment}") in stored:
                    like = torch.zeros((), device=parameter.device) if moment == "step" else parameter.detach()
                    places[key] = torch.empty_like(like)
        places["num_skipped"] = torch.tensor(0)
        if self._random_name in stored:
            places[self._random_name] = torch.zeros(stored[self._random_name], dtype=torch.uint8)
        return places

    def put_back(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from what `places` was filled with, at `step`."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[name])
            if self._average is not None:
                for name, value in self._average.tensors().items():
                    value.copy_(tensors[f"average/{name}"])
        for name, parameter in self._parameters.items():
            keys = {moment: f"optimizer/{name}/{moment}" for moment in MOMENTS}
            if keys["step"] in tensors:
                self._optimizer.state[parameter] = {moment: tensors[key] for moment, key in keys.items()}
        self.num_skipped = int(tensors["num_skipped"])
        if self._random_name in tensors:
            _set_random_states_in(tensors[self._random_name])
        else:
            seed_randomly(self._seed, step, self._processes.rank)


def random_states() -> dict[str, Any]:
    """The states of the random number generators that libraries share."""
    numpy_state: Any = np.random.get_state(legacy=True)
    kind, keys, *rest = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """The inverse of `random_states`."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])


def seed_randomly(*numbers: int) -> None:
    """Start all generators from a hash of numbers."""
    seed = stable_key(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _packed(value: Any) -> Tensor:
    """Numbers, tensors and containers of them as bytes, without code."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _set_random_states_in(tensor: Tensor) -> None:
    """Set what `random_states` returned, from its bytes. Raises ValueError if it is anything else."""
    before = random_states()
    try:
        states = torch.load(io.BytesIO(tensor.numpy().tobytes()), weights_only=True)
        _, keys, position, *_ = states["numpy"]
        # NumPy reads at this place without looking whether it is in its table.
        if len(keys) != NUMPY_WORDS or not 0 <= position <= NUMPY_WORDS:
            raise ValueError(f"NumPy's generator is at {position} of {len(keys)}")
        set_random_states(states)
    except Exception as error:  # whatever the generators say of another's state
        set_random_states(before)
        # PyTorch's own words on a pickle advise to run it.
        reason = "damaged" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        raise ValueError(f"states of random numbers that cannot be set: {reason}") from error
