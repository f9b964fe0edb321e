"""How the language model keeps its cache: three layouts of one neutral graph, each a rewrite of that graph alone.

    trt_split    the cache is only read, and the new rows come out; standard operators of any version
    trt_native   the cache is written in place by TensorScatter and read by Attention; its capacity is fixed
    ort          the same for any capacity

In place means that an output is the input it continues: `present_key_0` has to be bound to the memory of `past_key_0`,
in which only the rows from `write_indices` on change. All masks are explicit, because importers read causal modes and
counts of valid rows differently from ONNX.

Invalid rows get a weight of zero, and zero times a number is zero only if the number is finite. So in `trt_split` the
values in invalid rows have to be finite, keys may be anything; in the other layouts both have to be finite.

Letters: B sequences, T new tokens, K rows of the cache, H heads, G heads of keys and values, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.components.cached_attention import DOMAIN, OPERATOR
from export.components.component import Component
from export.formats import KVCacheLayout
from export.graph.external_data import without_weights
from export.graph.onnx_graph import GraphError
from export.graph.opset import raise_opset

IN_PLACE_OPSET = 24
"""The first version with TensorScatter."""

CACHE_AXIS = 2
END = np.iinfo(np.int64).max


def is_in_place(kv_cache: KVCacheLayout) -> bool:
    """Whether the graph writes into its cache."""
    return kv_cache != "trt_split"


def with_kv_cache_layout(component: Component, kv_cache: KVCacheLayout, capacity: int | None = None) -> Component:
    """The component with the ports that it has in a KV-cache layout; its module stays as it is.

    Args:
        component: any; only one with a cache changes.
        kv_cache: which.
        capacity: K, fixed; None: any, which `trt_native` cannot be.
    """
    if not component.num_cached_attentions or not is_in_place(kv_cache):
        return component
    _check_capacity(kv_cache, capacity)
    inputs, outputs = dict(component.inputs), {}
    for name, port in component.inputs.items():
        if name.startswith("past_") and capacity is not None:
            shape = (capacity if axis == CACHE_AXIS else size for axis, size in enumerate(port.shape))
            inputs[name] = replace(port, shape=tuple(shape))
    for name, port in component.outputs.items():
        past = name.replace("new_", "past_")
        if past in inputs:
            outputs[name.replace("new_", "present_")] = inputs[past]
        else:
            outputs[name] = port
    return replace(component, inputs=inputs, outputs=outputs)


def aliases_of(outputs: Iterable[str]) -> dict[str, str]:
    """By name of an output that is written in place, the input whose memory it shares."""
    return {name: name.replace("present_", "past_") for name in outputs if name.startswith("present_")}


def lower_attention(proto: ModelProto, kv_cache: KVCacheLayout, capacity: int | None = None) -> ModelProto:
    """A neutral graph in a KV-cache layout; the given graph is left as it is, and one without a cache is only copied.

    Args:
        proto: a graph in float32.
        kv_cache: which.
        capacity: K, fixed; None: any, which `trt_native` cannot be.

    Raises:
        GraphError: something but its attention uses the cache, or an operator's meaning may have changed between the
            versions.
    """
    lowered = ModelProto()
    lowered.CopyFrom(proto)
    if not any(map(_is_cached_attention, lowered.graph.node)):
        return lowered
    _check_capacity(kv_cache, capacity)
    if is_in_place(kv_cache):
        raise_opset(lowered, IN_PLACE_OPSET)
        lowered.ir_version = max(lowered.ir_version, helper.find_min_ir_version_for(lowered.opset_import, True))
    _Lowering(lowered, kv_cache, capacity).run()
    kept = [entry for entry in lowered.opset_import if entry.domain != DOMAIN]
    del lowered.opset_import[:]
    lowered.opset_import.extend(kept)
    onnx.checker.check_model(without_weights(lowered), full_check=True)
    return lowered


class _Lowering:
    """One pass over a graph in place."""

    def __init__(self, proto: ModelProto, kv_cache: KVCacheLayout, capacity: int | None) -> None:
        self.graph = proto.graph
        self.kv_cache = kv_cache
        self.capacity = capacity
        self.shapes = {
            value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
            for value in (*self.graph.input, *self.graph.value_info, *self.graph.output)
        }
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.masks: dict[str, str] = {}
        """By neutral mask, the mask over the rows of a cache that is written in place."""

    def run(self) -> None:
        for node in self.graph.node:
            if not _is_cached_attention(node):
                self.nodes.append(node)
            elif is_in_place(self.kv_cache):
                self._in_place(node)
            else:
                self._split(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.constants.items())
        if is_in_place(self.kv_cache):
            self._check_past_is_only_written()
            self._declare_present()

    def _split(self, node: NodeProto) -> None:
        """Scores of past and new rows side by side, one softmax, and a weighted sum of each of the two."""
        query, key, value, past_key, past_value, mask, _ = node.input
        (attended,) = node.output
        num_heads, num_shared = self._size(query, 1), self._size(key, 1)
        scaled = self._add("Mul", [query, self._constant("scale", _scale(node))], f"{attended}_scaled")
        if num_heads != num_shared:
            scaled = self._reshape(scaled, [0, num_shared, num_heads // num_shared, -1, self._size(query, 3)])
            key, value, past_key, past_value, mask = (
                self._add("Unsqueeze", [name, self._constant("axis_2", [2])], f"{attended}_{what}_shared")
                for what, name in zip(
                    ("key", "value", "past_key", "past_value", "mask"),
                    (key, value, past_key, past_value, mask),
                    strict=True,
                )
            )
        last = 3 if num_heads == num_shared else 4
        turned = [*range(last - 1), last, last - 1]
        scores = []
        for what, rows in (("past", past_key), ("new", key)):
            columns = self._add("Transpose", [rows], f"{attended}_{what}_columns", perm=turned)
            scores.append(self._add("MatMul", [scaled, columns], f"{attended}_{what}_scores"))
        joined = self._add("Concat", scores, f"{attended}_scores", axis=last)
        nothing = self._constant("minus_infinity", np.float32("-inf"))
        allowed = self._add("Where", [mask, joined, nothing], f"{attended}_allowed")
        share = self._add("Softmax", [allowed], f"{attended}_share", axis=last)
        num_past = self._add("Shape", [past_key], f"{attended}_num_past", start=last - 1, end=last)
        axis, end = self._constant(f"axis_{last}", [last]), self._constant("end", [END])
        parts = []
        for what, start, stop, rows in (
            ("past", self._constant("zero", [0]), num_past, past_value),
            ("new", num_past, end, value),
        ):
            weight = self._add("Slice", [share, start, stop, axis], f"{attended}_{what}_share")
            parts.append(self._add("MatMul", [weight, rows], f"{attended}_{what}_part"))
        if num_heads == num_shared:
            self._add("Add", parts, attended)
        else:
            total = self._add("Add", parts, f"{attended}_shared")
            self._reshape(total, [0, num_heads, -1, self._size(query, 3)], attended)

    def _in_place(self, node: NodeProto) -> None:
        """The new rows go into the cache, and attention reads the cache alone."""
        query, key, value, past_key, past_value, mask, write_indices = node.input
        present = [
            self._add("TensorScatter", [past, rows, write_indices], past.replace("past_", "present_"), axis=CACHE_AXIS)
            for past, rows in ((past_key, key), (past_value, value))
        ]
        if mask not in self.masks:
            self.masks[mask] = self._mask_over_rows(mask, past_key, key, write_indices)
        self.nodes.append(
            helper.make_node(
                "Attention",
                [query, *present, self.masks[mask]],
                list(node.output),
                name=f"attend_{node.output[0]}",
                scale=_scale(node).item(),
                softmax_precision=TensorProto.FLOAT,
            )
        )

    def _mask_over_rows(self, mask: str, past: str, new: str, write_indices: str) -> str:
        """[B, 1, T, K + T] over past and new rows -> [B, 1, T, K] over a cache in which the new ones stand behind the
        valid ones."""

        def called(what: str) -> str:
            return f"{mask}_{what}"

        zero, one = self._constant("number_zero", np.int64(0)), self._constant("number_one", np.int64(1))
        sizes = []
        for what, rows in (("past", past), ("new", new)):
            size = self._add("Shape", [rows], called(f"shape_of_{what}"), start=CACHE_AXIS, end=CACHE_AXIS + 1)
            sizes.append(self._add("Squeeze", [size], called(f"num_{what}")))
        num_past, num_new = sizes
        row = self._add("Range", [zero, num_past, one], called("row"))  # [K]
        axes = self._constant("axes_1_2_3", [1, 2, 3])
        first_new = self._add("Unsqueeze", [write_indices, axes], called("first_new"))  # [B, 1, 1, 1]
        age = self._add("Sub", [row, first_new], called("number_of_new"))  # [B, 1, 1, K]
        is_past = self._add("Less", [age, zero], called("is_past"))
        is_written = self._add("Less", [age, num_new], called("is_written"))
        last_new = self._add("Sub", [num_new, one], called("last_new"))
        column = self._add(
            "Add", [self._add("Min", [age, last_new], called("new_column")), num_past], called("shifted")
        )
        column = self._add("Where", [is_past, row, column], called("column"))
        lengths = self._add("Shape", [mask], called("shape"), start=0, end=CACHE_AXIS + 1)  # B, 1, S
        num_rows = self._add("Unsqueeze", [num_past, self._constant("axis_0", [0])], called("num_rows"))
        shape = self._add("Concat", [lengths, num_rows], called("shape_over_rows"), axis=0)
        column = self._add("Expand", [column, shape], called("columns"))
        taken = self._add("GatherElements", [mask, column], called("taken"), axis=3)
        return self._add("And", [taken, is_written], called("over_rows"))

    def _check_past_is_only_written(self) -> None:
        """Refuse more than one reader of an input whose memory changes during the call."""
        for port in self.graph.input:
            readers = [node.op_type for node in self.graph.node if port.name in node.input]
            if port.name.startswith("past_") and sorted(set(readers) - {"Shape"}) != ["TensorScatter"]:
                raise GraphError(
                    f"{port.name} is read by {readers}. Expected TensorScatter alone: it changes in place."
                )

    def _declare_present(self) -> None:
        ports = {port.name: port for port in self.graph.input}
        for port in ports.values():
            if port.name.startswith("past_") and self.capacity is not None:
                port.type.tensor_type.shape.dim[CACHE_AXIS].dim_value = self.capacity
        for output in self.graph.output:
            past = output.name.replace("new_", "past_")
            if past in ports:
                output.type.CopyFrom(ports[past].type)
                output.name = past.replace("past_", "present_")

    def _add(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"make_{output}", **attributes))
        return output

    def _reshape(self, name: str, shape: Sequence[int], output: str | None = None) -> str:
        sizes = self._constant("shape_" + "_".join(str(size).replace("-", "minus_") for size in shape), list(shape))
        return self._add("Reshape", [name, sizes], output or f"{name}_by_group")

    def _constant(self, name: str, numbers: np.ndarray | np.generic | list[int]) -> str:
        """A constant of the graph; equal names are equal numbers."""
        name = f"attention_{name}"
        array = np.asarray(numbers)
        known = self.constants.setdefault(name, array)
        if not np.array_equal(known, array):
            raise GraphError(f"The layers disagree on {name}: {known} and {array}. Expected one for all.")
        return name

    def _size(self, name: str, axis: int) -> int:
        size = self.shapes[name][axis]
        assert isinstance(size, int), "heads and channels belong to the model"
        return size


def _is_cached_attention(node: NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type == OPERATOR


def _scale(node: NodeProto) -> np.float32:
    (attribute,) = node.attribute
    return np.float32(helper.get_attribute_value(attribute))


def _check_capacity(kv_cache: KVCacheLayout, capacity: int | None) -> None:
    if (capacity is not None) != (kv_cache == "trt_native"):
        raise ValueError(
            f"{kv_cache} with a capacity of {capacity}. Expected a number for trt_native, and None for others."
        )
