"""The mmfs nodes as TensorRT's ahead-of-time plugins: their kernels are in the plan, and nothing is needed to load it.

    trt = open_package("tensorrt")
    plugins = AotPlugins(trt)

Only full TensorRT 11 has them, as its quickly deployable plugins; TensorRT-RTX does not. Tests call these functions by
the Python part of TensorRT's bindings and by a stand-in for it. TensorRT's builder has never called them, and no plan
with such a plugin has been built or executed so far.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing

from mmfs.kernels.nvrtc import nvrtc
from plugins_trt.driver import DriverError, driver
from plugins_trt.entry import SCALARS, Entry
from plugins_trt.machine_code import PTX_ARCHITECTURE, MachineCode, compile_ptx
from plugins_trt.node_contract import ATTRIBUTES, INPUTS, NAMESPACE, VERSION, WEIGHTS, Node, output_shape, takes_type
from plugins_trt.plugin import node_of, types_of

ATTRIBUTE_TYPES: Final = {"spatial_shapes": numpy.typing.NDArray[np.int64], "null_logit": float, "use_null": int}
"""As TensorRT takes them."""

TACTIC: Final = 1
"""The only one. If none were listed, TensorRT would not pass the `tactic` that it wants."""

MOST_ROWS: Final = 2**31 - 1
"""Queries of a batch, and images of a bank: TensorRT computes the integers of a launch in 32 bits."""


class AotPlugins:
    """The plugins of all mmfs nodes, known to a TensorRT from now on, for as long as the process lives.

    Args:
        trt: from `tensorrt_package.open_package`.

    Raises:
        RuntimeError: this TensorRT has no ahead-of-time plugins, there are plugins of these names already, there is no
            NVRTC, or the driver is older than it.
    """

    def __init__(self, trt: ModuleType) -> None:
        self.trt = trt
        self.kernels: dict[str, dict[str, bytes]] = {}
        """The PTX that was handed over, by node type and name of the kernel; TensorRT may ask for one repeatedly."""

        try:
            self.trtp: Any = import_module(f"{trt.__name__}.plugin")
        except ImportError as error:
            raise RuntimeError(
                f"{trt.__name__} {trt.__version__} has no ahead-of-time plugins ({error}). Expected TensorRT 11; with "
                "TensorRT-RTX, use the plugins in Python (--plugin python)."
            ) from error
        known = {(it.plugin_namespace, it.name) for it in trt.get_plugin_registry().all_creators}
        for operator in INPUTS:
            if (NAMESPACE, operator) in known:
                raise RuntimeError(
                    f"TensorRT {trt.__version__} has a plugin {NAMESPACE}::{operator}, version {VERSION}, already. "
                    "Expected to be the only one: make AotPlugins once, and no other mmfs plugins besides."
                )
        check_driver()
        self.network_flags = 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
        """For `create_network`."""

        for operator in INPUTS:
            self._register(operator)

    def configure(self, config: Any) -> None:
        """Nothing to do: TensorRT asks for the kernels itself."""

    def num_in_plan(self) -> None:
        """Unknown: TensorRT may ask for the kernel of a layer any number of times."""

    def _register(self, operator: str) -> None:
        trtp: Any = self.trtp
        name = f"{NAMESPACE}::{operator}"
        num_inputs = len(INPUTS[operator])
        tensors = {tensor: trtp.TensorDesc for tensor in INPUTS[operator]}
        attributes = {attribute: ATTRIBUTE_TYPES[attribute] for attribute in ATTRIBUTES[operator]}
        outputs = {"outputs": tuple[trtp.TensorDesc]}

        def describe(*tensors: Any, **values: Any) -> Any:
            node_of(operator, {name: np.asarray(value) for name, value in values.items()})  # refuse early
            shape = output_shape(operator, [tensor.shape_expr for tensor in tensors], lambda one, other: one * other)
            return trtp.from_shape_expr(tuple(shape), tensors[0].dtype)

        def tune(*tensors: Any) -> Any:
            *inputs, (output,) = tensors
            return [trtp.AutoTuneCombination(self._types(operator, inputs, output), "LINEAR", [TACTIC])]

        def implement(*arguments: Any) -> Any:
            inputs, (*values, _outputs, _tactic) = arguments[:num_inputs], arguments[num_inputs:]
            named = {name: np.asarray(value) for name, value in zip(attributes, values, strict=True)}
            return self._kernel(node_of(operator, named), inputs)

        launch: Any = tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]
        trtp.register(name)(_signed(describe, {**tensors, **attributes}, trtp.TensorDesc))
        trtp.autotune(name)(_signed(tune, {**tensors, **outputs}, list[trtp.AutoTuneCombination]))
        trtp.aot_impl(name)(_signed(implement, {**tensors, **attributes, **outputs, "tactic": int}, launch))

    def _types(self, operator: str, inputs: Sequence[Any], output: Any) -> str:
        """The types in the network, if the kernels take them: TensorRT converts none in a strongly typed network."""
        described = [tensor.dtype for tensor in (*inputs, output)]
        known = [types_of(self.trt).get(dtype) for dtype in described]
        for position, dtype in enumerate(described):
            if not takes_type(operator, position, known[: position + 1]):
                tensor = (*INPUTS[operator], "the output")[position]
                raise TypeError(f"{tensor} of {operator} is {dtype}. The kernels do not take it.")
        names = {"FLOAT": "FP32", "HALF": "FP16"}
        return ", ".join(names.get(dtype.name, dtype.name) for dtype in described)

    def _kernel(self, node: Node, inputs: Sequence[Any]) -> tuple[str, bytes, Any, Any]:
        """What TensorRT launches: name, PTX, geometry, and the integers between inputs and output."""
        trtp = self.trtp
        _check_sizes(node.operator, [tensor.shape for tensor in inputs])
        usual = [_shape(tensor.shape, "opt") for tensor in inputs]
        entry = Entry.of(node, usual, [types_of(self.trt)[tensor.dtype] for tensor in inputs])
        ptx = compile_ptx(entry.source).rstrip(b"\0")
        self.kernels.setdefault(node.operator, {})[entry.name] = ptx

        weights = inputs[INPUTS[node.operator].index(WEIGHTS[node.operator])]
        batch, num_queries = weights.shape_expr[0], weights.shape_expr[1]
        launch = trtp.KernelLaunchParams()
        # A grid without blocks cannot be launched.
        launch.grid_x = trtp.max(trtp.cdiv(batch * num_queries, entry.rows_per_block), 1)
        launch.grid_y = entry.grid_y
        launch.block_x = entry.threads
        launch.shared_mem = entry.shared_bytes
        sizes = {"batch": batch, "num_queries": num_queries, "num_images": inputs[0].shape_expr[0]}
        scalars = trtp.SymIntExprs(len(SCALARS))
        for position, name in enumerate(SCALARS):
            scalars[position] = trtp.SymInt32(sizes[name])
        return entry.name, ptx, launch, scalars

    def sha256(self) -> list[str]:
        """Of the kernels that were handed over, one for each."""
        ptx = [{(name, PTX_ARCHITECTURE): image} for images in self.kernels.values() for name, image in images.items()]
        return sorted({MachineCode(one).sha256() for one in ptx})


def check_driver() -> None:
    """Raise RuntimeError if this machine's driver is older than the NVRTC whose PTX it would have to read.

    Machine code may be newer by a minor version, PTX may not.
    """
    written = nvrtc().version
    try:
        newest = driver().cuda_version()
    except DriverError:
        return  # no GPU: TensorRT reports that itself
    if newest < written:
        (major, minor), (own_major, own_minor) = written, newest
        raise RuntimeError(
            f"NVRTC {major}.{minor} writes PTX that this machine's driver, for CUDA {own_major}.{own_minor}, cannot "
            f"read. Install nvidia-cuda-nvrtc=={own_major}.{own_minor}.*, or a newer driver."
        )


def _signed(function: Callable[..., Any], parameters: dict[str, Any], returned: Any) -> Callable[..., Any]:
    """A function with the signature that TensorRT reads."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    listed = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    function.__signature__ = inspect.Signature(listed, return_annotation=returned)  # type: ignore[attr-defined]
    return function


def _shape(shape: Any, bound: str) -> tuple[int, ...]:
    """The shape of a tensor at a bound of the profile: "min", "opt" or "max"."""
    return tuple(int(size) for size in (getattr(shape, bound) if shape.is_dynamic else shape))


def _check_sizes(operator: str, shapes: Sequence[Any]) -> None:
    """Raise ValueError unless only batch, queries and images vary, and 32 bits suffice."""
    open_axes = {"value": 1, "offset_table": 0, "logit_table": 0, "null_value": 0}
    most: dict[str, tuple[int, ...]] = {}
    for name, shape in zip(INPUTS[operator], shapes, strict=True):
        if any(size < 0 for size in tuple(shape)[open_axes.get(name, 2) :]):
            raise ValueError(
                f"{name} of {operator} has the shape {list(shape)}, where -1 varies. Only batch, queries and images "
                "may: all other sizes belong to the model. Export it with fixed ones."
            )
        most[name] = _shape(shape, "max")
    batch, num_queries = most[WEIGHTS[operator]][:2]
    if max(batch * num_queries, most["value"][0]) > MOST_ROWS:
        raise ValueError(
            f"{operator} takes up to {batch} x {num_queries} queries and {most['value'][0]} images. Expected at most "
            f"{MOST_ROWS} of each. Lower the profile."
        )
