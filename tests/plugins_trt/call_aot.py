"""A process of its own: the ahead-of-time plugins as TensorRT's Python code calls them while it builds an engine.

    python call_aot.py

Needs `tensorrt_bindings` and libraries for it (bindings_without_library.cpp). Sizes that vary are letters, and
expressions of them are kept as they are made, to be computed afterwards. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import tensorrt_bindings as trt

from plugins_trt.aot import AotPlugins
from plugins_trt.node_contract import INPUTS

# The package `tensorrt` is these bindings under another name, and needs the library to be installed.
sys.modules["tensorrt"] = trt
sys.modules["tensorrt.plugin"] = import_module("tensorrt_bindings.plugin")

LETTERS = ("B", "Q", "N")
CALLS = ({"B": 2, "Q": 5, "N": 6}, {"B": 1, "Q": 1, "N": 1}, {"B": 0, "Q": 9, "N": 0}, {"B": 4, "Q": 99, "N": 9})
TYPES = trt.DataType
COORDINATE = TYPES.FLOAT
MMFS = {
    "value": ["N", 34, 2, 64],
    "reference_points": ["B", "Q", 2],
    "sampling_offsets": ["B", "Q", 2, 3, 2],
    "attention_logits": ["B", "Q", 2, 2, 3],
    "visible": ["B", "Q", 2],
    "offset_table": [4, 2, 3, 2],
    "logit_table": [4, 2, 2, 3],
    "null_value": [2, 64],
}
MMFS_IMAGE_LISTS = {
    "value": ["N", 34, 2, 64],
    "reference_points": ["B", "Q", 4, 1, 3, 2],
    "sampling_offsets": ["B", "Q", 2, 2, 3, 2],
    "attention_logits": ["B", "Q", 2, 2, 3],
    "image_indices": ["B", "Q", 4],
    "offset_table": [4, 2, 2, 3, 2],
    "logit_table": [4, 2, 2, 3],
    "null_value": [2, 64],
}
MS_DEFORM_ATTN = {
    "value": ["B", 34, 2, 64],
    "sampling_locations": ["B", "Q", 2, 2, 3, 2],
    "attention_weights": ["B", "Q", 2, 2, 3],
}
Shapes = Mapping[str, Sequence[str | int]]


class Expression(trt.IDimensionExpr):
    """A number, a letter, or an operation on two of these."""

    meaning: Any

    @classmethod
    def of(cls, meaning: Any) -> Expression:
        expression = cls.__new__(cls)  # the bindings construct none themselves
        expression.meaning = meaning
        return expression

    def is_constant(self) -> bool:
        return isinstance(self.meaning, int)

    def get_constant_value(self) -> int:
        return int(self.meaning)

    def at(self, sizes: Mapping[str, int]) -> int:
        """Computed."""
        if isinstance(self.meaning, int | str):
            return sizes[self.meaning] if isinstance(self.meaning, str) else self.meaning
        operation, one, other = self.meaning
        a, b = one.at(sizes), other.at(sizes)
        return {"PROD": lambda: a * b, "CEIL_DIV": lambda: -(-a // b), "MAX": lambda: max(a, b)}[operation.name]()


class ExpressionBuilder:
    """In the place of TensorRT's."""

    def constant(self, number: int) -> Expression:
        return Expression.of(number)

    def operation(self, operation: Any, one: Expression, other: Expression) -> Expression:
        return Expression.of((operation, one, other))


class Arguments(dict[int, Any]):
    """In the place of ISymExprs."""

    nbSymExprs = 0


def described(shape: Sequence[str | int], dtype: Any, most: Mapping[str, int]) -> Any:
    """A tensor between the least and the largest sizes of a profile."""
    described = trt.DynamicPluginTensorDesc()
    tensor = trt.PluginTensorDesc()
    tensor.dims = [size if isinstance(size, int) else -1 for size in shape]
    tensor.type, tensor.format = dtype, trt.TensorFormat.LINEAR
    described.desc = tensor
    for bound, sizes in (("min", dict.fromkeys(LETTERS, 0)), ("opt", CALLS[0]), ("max", most)):
        setattr(described, bound, [size if isinstance(size, int) else sizes[size] for size in shape])
    return described


def build(
    operator: str, shapes: Shapes, value_type: Any, attributes: Mapping[str, np.ndarray], most: Mapping[str, int]
) -> dict[str, Any]:
    """What TensorRT learns of a node, in the order in which its Python code asks."""
    kinds = {np.dtype(np.int64): trt.PluginFieldType.INT64, np.dtype(np.float64): trt.PluginFieldType.FLOAT64}
    fields = [trt.PluginField(name, data, kinds[data.dtype]) for name, data in attributes.items()]
    (creator,) = (it for it in trt.get_plugin_registry().all_creators if it.name == operator)
    request = trt.QuickPluginCreationRequest.PREFER_AOT
    plugin = creator.create_plugin(
        operator, "mmfs", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD, request
    )
    types = [value_type if name in ("value", "null_value") else COORDINATE for name in shapes]
    for seen in {"visible", "image_indices"} & shapes.keys():
        types[list(shapes).index(seen)] = TYPES.INT64
    (out_type,) = plugin.get_output_data_types(types, [len(shape) for shape in shapes.values()])
    expressions = [[Expression.of(size) for size in shape] for shape in shapes.values()]
    plugin.get_output_shapes(expressions, [], ExpressionBuilder())
    out_shape = [size._expr for size in plugin.output_descs[0].shape_expr]
    inputs = [described(shape, dtype, most) for shape, dtype in zip(shapes.values(), types, strict=True)]
    outputs = [described(["B", "Q", 128], out_type, most)]
    formats = plugin.get_supported_format_combinations([*inputs, *outputs], len(inputs))
    plugin.configure_plugin(inputs, outputs)
    (tactic,) = plugin.get_valid_tactics()
    plugin.set_tactic(tactic)

    returned: list[Any] = []  # of ours, because what TensorRT makes of it cannot be read
    implement = plugin.aot_impl_function

    def implement_and_keep(*given: Any) -> Any:
        returned.append(implement(*given))
        return returned[-1]

    plugin.aot_impl_function = implement_and_keep
    arguments = Arguments()
    launch: Any = type("Launch", (), {})()
    plugin.get_launch_params(None, [*inputs, *outputs], len(inputs), launch, arguments, ExpressionBuilder())
    name, ptx = plugin.get_kernel([it.desc for it in inputs], [it.desc for it in outputs])
    ((_, _, geometry, scalars),) = returned
    assert arguments.nbSymExprs == len(arguments) == len(scalars)
    axes = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")
    return {
        "types": [[it.type.name, it.format.name] for it in formats],
        "name": name,
        "ptx": ptx.decode(),
        "calls": [
            {
                "out": [size.at(sizes) for size in out_shape],
                "launch": [getattr(geometry, axis)._expr.at(sizes) for axis in axes],
                "scalars": [scalar._expr.at(sizes) for scalar in scalars],
            }
            for sizes in CALLS
        ],
    }


def main() -> None:
    plugins = AotPlugins(trt)
    mmfs = {"spatial_shapes": np.array([4, 7, 3, 2]), "null_logit": np.array([0.3]), "use_null": np.array([1])}
    ms_deform_attn = {"spatial_shapes": mmfs["spatial_shapes"]}
    most = CALLS[-1]
    answer: dict[str, Any] = {
        "MMFS": build("MMFS", MMFS, TYPES.HALF, mmfs, most),
        "MMFSImageLists": build("MMFSImageLists", MMFS_IMAGE_LISTS, TYPES.HALF, mmfs, most),
        "MSDeformAttn": build("MSDeformAttn", MS_DEFORM_ATTN, TYPES.BF16, ms_deform_attn, most),
    }
    assert list(MMFS) == list(INPUTS["MMFS"])
    assert list(MMFS_IMAGE_LISTS) == list(INPUTS["MMFSImageLists"])
    assert list(MS_DEFORM_ATTN) == list(INPUTS["MSDeformAttn"])
    answer["kernels"] = {operator: list(kernels) for operator, kernels in plugins.kernels.items()}
    answer["refused"] = []
    for refused in (
        lambda: AotPlugins(trt),
        lambda: build("MSDeformAttn", MS_DEFORM_ATTN, TYPES.INT32, ms_deform_attn, most),
        lambda: build(
            "MSDeformAttn", {**MS_DEFORM_ATTN, "value": ["B", 34, "N", 64]}, TYPES.HALF, ms_deform_attn, most
        ),
        lambda: build("MSDeformAttn", MS_DEFORM_ATTN, TYPES.HALF, ms_deform_attn, {"B": 70000, "Q": 70000, "N": 1}),
        lambda: build("MSDeformAttn", MS_DEFORM_ATTN, TYPES.HALF, {"spatial_shapes": np.array([4, 7, 3, 3])}, most),
        lambda: build("MMFS", MMFS, TYPES.HALF, ms_deform_attn, most),
        lambda: build("MMFSImageLists", {**MMFS_IMAGE_LISTS, "image_indices": ["B", "Q", "N"]}, TYPES.HALF, mmfs, most),
    ):
        try:
            refused()
        except (RuntimeError, TypeError, ValueError) as error:
            answer["refused"].append(f"{type(error).__name__}: {error}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
