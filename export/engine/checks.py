"""Checks of an engine after it was built, and what TensorRT reports about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from export.store.manifest import Inspection


class EngineError(RuntimeError):
    """An engine could not be built, or is not what was asked for."""


def check_plugins(built: Mapping[str, Any], expected: Mapping[str, int]) -> None:
    """Raise EngineError unless network and plan have exactly the expected plugins, by node type where that is known."""
    in_plan, num_layers = built["num_plugins_in_plan"], built["num_plugin_layers"]
    told = "" if in_plan is None else f", and the plan holds the plugins {in_plan or 'none'}"
    if in_plan not in (None, expected) or num_layers != sum(expected.values()):
        raise EngineError(
            f"The network has {num_layers} plugin layers{told}; expected were {dict(expected) or 'none'}."
        )


def memory_in_log(messages: str) -> dict[str, int]:
    """Memory that an engine takes on a GPU by TensorRT's report: the most of any profile, and all weights."""
    found = {
        kind: [int(number) for number in re.findall(rf"Total {kind} Memory: (\d+) bytes", messages)]
        for kind in ("Activation", "Weights")
    }
    return {kind.lower(): max(numbers) for kind, numbers in found.items() if numbers}


def num_plugin_layers(layers: Mapping[str, Any]) -> int:
    """Plugin layers in the JSON of TensorRT's inspector, written with detailed profiling."""
    return sum("plugin" in str(layer.get("LayerType", "")).lower() for layer in layers["Layers"])


def inspected(inspection: Mapping[str, Any], expected: Mapping[str, int]) -> Inspection:
    """The manifest's entry about what the inspector sees.

    Args:
        looked: from the process: the inspector's layers, or the error that prevented inspection.
        expected: plugins, by node type.

    Raises:
        EngineError: it sees another number of plugin layers.
    """
    if "error" in inspection:
        return Inspection("not run", f"TensorRT could not load the plan here: {inspection['error']}")
    found, wanted = num_plugin_layers(inspection["layers"]), sum(expected.values())
    if found != wanted:
        raise EngineError(f"The inspector finds {found} plugin layers in the engine; expected were {wanted}.")
    return Inspection("pass", num_plugin_layers=found)
