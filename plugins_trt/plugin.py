"""The mmfs nodes as TensorRT plugins (IPluginV3) written in Python, for TensorRT and TensorRT-RTX.

    trt = open_package("rtx")
    plugins = Plugins(trt)

A plan that is built afterwards holds the attributes of its nodes and the machine code of their kernels: to load it,
make `Plugins` first; neither NVRTC nor CuPy is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch

from plugins_trt.driver import driver
from plugins_trt.launches import Address, instances_of, launches, workspace_bytes
from plugins_trt.machine_code import ARCHITECTURES, PTX_ARCHITECTURE, MachineCode, compile_ahead
from plugins_trt.node_contract import (
    ATTRIBUTES,
    INPUTS,
    NAMESPACE,
    VERSION,
    Node,
    output_shape,
    sizes_of,
    takes_type,
)


class Plugins:
    """The plugins of all mmfs nodes, known to a TensorRT from now on and as long as this object lives.

    Args:
        trt: from `tensorrt_package.open_package`.
        architectures: for which plans get machine code (sm_*) or PTX (compute_*).

    Raises:
        RuntimeError: TensorRT refuses, because there are plugins of these names already.
    """

    network_flags = 0
    """For `create_network`."""

    def __init__(self, trt: ModuleType, architectures: Sequence[str] = (*ARCHITECTURES, PTX_ARCHITECTURE)) -> None:
        self.trt = trt
        self.architectures = tuple(architectures)
        self.serialized: dict[int, tuple[Node, MachineCode]] = {}
        """What was written into plans, by the number of the layer; TensorRT may write a layer more than once."""

        self.num_created = 0

        registry = trt.get_plugin_registry()
        self._creators = [_creator(self, name) for name in INPUTS]  # TensorRT does not keep them alive
        for creator in self._creators:
            if not registry.register_creator(creator, NAMESPACE):
                raise RuntimeError(
                    f"TensorRT {trt.__version__} has a plugin {NAMESPACE}::{creator.name}, version {VERSION}, already. "
                    "Expected to be the only one: make Plugins once, and do not load the C++ plugin besides."
                )

    def configure(self, config: Any) -> None:
        """Nothing to do: each layer writes its kernels into the plan."""

    def num_in_plan(self) -> Mapping[str, int]:
        """Plugins that were written, by node type."""
        return Counter(node.operator for node, _ in self.serialized.values())

    def sha256(self) -> list[str]:
        """Digests of the kernels that were written, one for each set."""
        return sorted({code.sha256() for _, code in self.serialized.values()})


@cache
def plugins_of(trt: ModuleType) -> Plugins:
    """The plugins that read plans, one set for a process: TensorRT takes no second one, and forgets none."""
    return Plugins(trt)


@dataclass
class State:
    """The state of a plugin, which TensorRT may copy at any time."""

    node: Node
    number: int
    """Of the layer; copies have the same."""

    from_plan: MachineCode | None = None
    """The kernels of a layer that was loaded; if it is saved again, they are written unchanged."""

    num_channels: int = 0
    dtype: torch.dtype | None = None
    """Of value; a layer that was loaded is not configured again, and knows neither."""

    tried: MachineCode | None = None
    """While building: the kernels for the GPU that the layer is tried on, if there is one."""

    def compile(self, architectures: Sequence[str]) -> MachineCode:
        """The kernels of a layer that is being built."""
        if self.dtype is None:
            raise RuntimeError(
                f"TensorRT asks a layer {self.node.operator} for its kernels before it has configured it, so that the "
                "type of value is not known. Expected the order of IPluginV3: configure, then serialize or run."
            )
        return compile_ahead(instances_of(self.node, self.num_channels, self.dtype), architectures)


def node_of(operator: str, fields: Mapping[str, np.ndarray]) -> Node:
    """A node from the values of its attributes, arrays of any integer or floating type.

    Raises:
        ValueError: one is missing or invalid.
    """
    missing = [name for name in ATTRIBUTES[operator] if name not in fields]
    if missing:
        raise ValueError(f"The node {operator} lacks {', '.join(missing)}. It has {', '.join(fields) or 'nothing'}.")
    for name in ATTRIBUTES[operator]:
        if name != "spatial_shapes" and fields[name].size != 1:
            raise ValueError(f"{name} of {operator} holds {fields[name].size} numbers. Expected one.")
    sides = fields["spatial_shapes"].reshape(-1).tolist()
    if not all(float(side).is_integer() for side in sides):
        raise ValueError(f"spatial_shapes is {sides}. Expected whole numbers.")
    shapes = tuple(map(int, sides))
    uses_null = "use_null" in ATTRIBUTES[operator] and bool(fields["use_null"].item())
    return Node(operator, shapes, float(fields["null_logit"].item()) if uses_null else None)


def fields_of(node: Node) -> dict[str, np.ndarray]:
    """The reverse of `node_of`."""
    fields = {
        "spatial_shapes": np.array(node.spatial_shapes, np.int32),
        "null_logit": np.array([node.null_logit or 0.0], np.float32),
        "use_null": np.array([node.null_logit is not None], np.int32),
    }
    return {name: fields[name] for name in ATTRIBUTES[node.operator]}


def types_of(trt: ModuleType) -> dict[Any, torch.dtype]:
    """PyTorch's types of the tensors that the plugins take, by TensorRT's."""
    return {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.BF16: torch.bfloat16,
        trt.DataType.INT64: torch.int64,
    }


def _creator(plugins: Plugins, operator: str) -> Any:
    trt = plugins.trt

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.name = operator
            self.plugin_namespace = NAMESPACE
            self.plugin_version = VERSION
            self.field_names = trt.PluginFieldCollection([trt.PluginField(name) for name in ATTRIBUTES[operator]])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            values = {field.name: np.array(field.data) for field in fields}
            plugins.num_created += 1
            state = State(node_of(operator, values), plugins.num_created)
            if phase == trt.TensorRTPhase.RUNTIME:
                state.from_plan = MachineCode.unpack(
                    {name: value.tobytes() for name, value in values.items() if "@" in name}
                )
            return _plugin(plugins, state)

    return Creator()


def _plugin(plugins: Plugins, state: State) -> Any:
    """A new plugin object."""
    trt = plugins.trt
    types = types_of(trt)
    operator = state.node.operator

    class Plugin(
        trt.IPluginV3,  # type: ignore[name-defined, misc]
        trt.IPluginV3OneCore,  # type: ignore[name-defined, misc]
        trt.IPluginV3OneBuild,  # type: ignore[name-defined, misc]
        trt.IPluginV3OneRuntime,  # type: ignore[name-defined, misc]
    ):
        def __init__(self) -> None:
            trt.IPluginV3.__init__(self)
            trt.IPluginV3OneCore.__init__(self)
            trt.IPluginV3OneBuild.__init__(self)
            trt.IPluginV3OneRuntime.__init__(self)
            self.plugin_name = operator
            self.plugin_namespace = NAMESPACE
            self.plugin_version = VERSION
            self.num_outputs = 1

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def clone(self) -> Any:
            return _plugin(plugins, replace(state))

        # Building

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            return [input_types[0]]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], exprs: Any) -> list[Any]:
            def times(one: Any, other: Any) -> Any:
                return exprs.operation(trt.DimensionOperation.PROD, one, other)

            return [trt.DimsExprs(list(output_shape(operator, inputs, times)))]

        def supports_format_combination(self, position: int, tensors: Sequence[Any], num_inputs: int) -> bool:
            known = [types.get(tensor.desc.type) for tensor in tensors[: position + 1]]
            return tensors[position].desc.format == trt.TensorFormat.LINEAR and takes_type(operator, position, known)

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            state.num_channels = sizes_of(state.node, [tuple(tensor.max) for tensor in inputs]).num_channels
            state.dtype = types[inputs[0].desc.type]

        def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
            dtype = types[inputs[0].desc.type]
            return workspace_bytes(state.node, [tuple(tensor.max) for tensor in inputs], dtype)

        def get_valid_tactics(self) -> list[int]:
            return []

        # Running

        def get_fields_to_serialize(self) -> Any:
            code = state.from_plan or state.compile(plugins.architectures)
            plugins.serialized[state.number] = state.node, code
            kinds = {
                np.dtype(np.int8): trt.PluginFieldType.INT8,
                np.dtype(np.int32): trt.PluginFieldType.INT32,
                np.dtype(np.float32): trt.PluginFieldType.FLOAT32,
            }
            images = {name: np.frombuffer(data, np.int8) for name, data in code.pack().items()}
            self.kept = {**fields_of(state.node), **images}  # the fields refer to this memory
            return trt.PluginFieldCollection(
                [trt.PluginField(name, data, kinds[data.dtype]) for name, data in self.kept.items()]
            )

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def set_tactic(self, tactic: int) -> None:
            pass

        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            pass

        def enqueue(
            self,
            input_desc: Sequence[Any],
            output_desc: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            gpu = driver().current_gpu()
            code = state.from_plan or state.tried
            if code is None:
                major, minor = gpu.capability
                code = state.tried = state.compile((f"sm_{major}{minor}",))
            addresses = [
                Address(pointer, types[tensor.type]) for pointer, tensor in zip(inputs, input_desc, strict=True)
            ]
            output = Address(outputs[0], addresses[0].dtype)
            shapes = [tuple(tensor.dims) for tensor in input_desc]
            for launch in launches(state.node, shapes, addresses, output, workspace, gpu.num_sms):
                gpu.launch(code, launch, stream)

    return Plugin()
