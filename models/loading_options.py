"""The words of transformers for how a model is loaded, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}

DeviceMap = str | torch.device | Mapping[str, str | int | torch.device]


def float_dtype(dtype: torch.dtype | str, *, also: str = "") -> torch.dtype:
    """A float type, or its name.

    Args:
        dtype: such as `torch.bfloat16` or "bfloat16".
        also: other values that the caller accepts, for the message.

    Raises:
        ValueError: anything else.
    """
    found = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found is None or not found.is_floating_point:
        raise ValueError(
            f"dtype is {dtype!r}; expected a float type: torch.float32, torch.bfloat16 or torch.float16, or its name"
            f"{also}."
        )
    return found


def one_device(device: torch.device | str, device_map: DeviceMap | None) -> torch.device:
    """The device that all weights go to.

    Args:
        device: the device if there is no map.
        device_map: in transformers' manner, one device: "cuda:1", or {"": 1}.

    Raises:
        ValueError: a map that spreads the weights over several devices, or lets accelerate choose them.
    """
    if device_map is None:
        return torch.device(device)
    is_whole = isinstance(device_map, Mapping) and list(device_map) == [""]
    chosen = device_map[""] if isinstance(device_map, Mapping) and is_whole else device_map
    if isinstance(chosen, str | int | torch.device):
        try:
            return torch.device(chosen)
        except RuntimeError:  # "auto", "balanced", ...
            pass
    raise ValueError(
        f"device_map is {device_map!r}; expected one device, for the model is not spread over several: images are "
        "shared by layers of two networks. Give device='cuda', with dtype='bfloat16' for less memory; training over "
        "several GPUs shards the weights with FSDP2 (docs/training.md)."
    )
