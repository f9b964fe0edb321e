"""A component as a TensorRT engine: the same for TensorRT and TensorRT-RTX, whose Python interface is one.

No engine has been executed so far. The logic here (profiles, padding, addresses) is tested with a stand-in for the
package that has the same calls.

A recorded CUDA graph is valid only until the execution context that it was recorded from changes, so each recording has
contexts of its own. All contexts of an engine share one piece of memory, because they never run at once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor

from export.components.component import Port
from export.components.profiles import Profile
from export.runtime.runner import ComponentRunner, Tensors, axis_lengths
from plugins_trt.plugin import plugins_of
from plugins_trt.tensorrt_package import PACKAGES

ALIGNMENT: Final = 256
"""In bytes, of every address that TensorRT takes."""


class TensorRTError(RuntimeError):
    """TensorRT cannot load or run an engine."""


@dataclass
class Loader:
    """A TensorRT that loads plans, with what they need of mmfs.

    Args:
        trt: from `plugins_trt.tensorrt_package.open_package`.
        plugin_kinds: of the plugins in the plans, as the manifest names them (`plugins_trt.kinds.PLUGIN_KINDS`).
    """

    trt: ModuleType
    plugin_kinds: Set[str]
    log: Any = field(init=False)
    runtime: Any = field(init=False)

    def __post_init__(self) -> None:
        self.log = _log(self.trt)
        if "python" in self.plugin_kinds:
            plugins_of(self.trt)
        self.runtime = self.trt.Runtime(self.log)
        if "library" in self.plugin_kinds:
            self.runtime.engine_host_code_allowed = True  # the library is inside of the plan

    def load(self, plan: bytes, name: str) -> Any:
        """An engine.

        Raises:
            TensorRTError: with TensorRT's message.
        """
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise TensorRTError(f"{self.trt.__name__} does not load the engine of {name}: {self.log.words()}")
        return engine


@dataclass
class Context:
    """An execution context for one profile of an engine, with the shapes that were set."""

    execution: Any
    config: Any
    """The context was made with this. It is kept because TensorRT does not document whether the context copies it."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


class TensorRTRunner(ComponentRunner):
    """An engine with an execution context for each of its profiles.

    It runs on one stream at a time.

    Args:
        name: of the component.
        inputs: its inputs.
        outputs: its outputs.
        plan: the engine.
        profiles: between which sizes it works, in the order in which it was built with them.
        loader: which TensorRT.
        device: the GPU.

    Raises:
        TensorRTError: it does not load.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Port],
        outputs: Mapping[str, Port],
        plan: bytes,
        profiles: Sequence[Profile],
        loader: Loader,
        device: torch.device,
    ) -> None:
        super().__init__(name, inputs, outputs, device)
        self.profiles = list(profiles)
        self.loader = loader
        with _on(device):
            self.engine = loader.load(plan, name)
        self.memory = torch.empty(self.engine.device_memory_size_v2, dtype=torch.uint8, device=device)
        self.contexts: dict[tuple[Any, ...], Context] = {}
        self.is_recorded = False

    def for_recording(self) -> TensorRTRunner:
        other = copy.copy(self)
        other.contexts = {}
        other.is_recorded = True
        return other

    def most(self, axis: str) -> int | None:
        largest = [profile.axes[axis][2] for profile in self.profiles if axis in profile.axes]
        if not largest:
            known = sorted({one for profile in self.profiles for one in profile.axes})
            raise ValueError(f"The engine of {self.name} has no dynamic axis {axis}. Expected {' or '.join(known)}.")
        return max(largest)

    def num_rows(self, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
        axis = next(iter(self.inputs.values())).shape[0]
        assert isinstance(axis, str), "every component has rows"
        ranges = [profile.axes[axis] for profile in self.profiles]
        return min(least for least, _, _ in ranges), max(most for _, _, most in ranges)

    def run(self, inputs: Tensors) -> Tensors:
        number = self._profile_for(axis_lengths(self.inputs, inputs))
        outputs = self.empty_outputs(inputs)
        continued = set(self.aliases.values())
        inputs = {name: tensor if name in continued else _aligned(tensor) for name, tensor in inputs.items()}
        with _on(self.device):
            stream = _stream(self.device)
            shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
            context = self._context(number, shapes, stream)
            for name, shape in shapes.items():
                if context.shapes.get(name) == shape:
                    continue
                if not context.execution.set_input_shape(name, shape):
                    raise self._refused(f"refuses {name} {list(shape)}")
                context.shapes[name] = shape
            for name, tensor in (inputs | outputs).items():
                if not context.execution.set_tensor_address(name, tensor.data_ptr()):
                    raise self._refused(f"refuses the address of {name}")
            if not context.execution.execute_async_v3(stream):
                raise self._refused("did not run")
        return outputs

    def _refused(self, what: str) -> TensorRTError:
        return TensorRTError(f"{self.name} {what}: {self.loader.log.words()}")

    def _profile_for(self, sizes: Mapping[str, int]) -> int:
        """The first profile that takes these lengths: the narrow one comes before the wide one."""
        for number, profile in enumerate(self.profiles):
            if all(least <= sizes[axis] <= most for axis, (least, _, most) in profile.axes.items()):
                return number
        ranges = [{axis: [least, most] for axis, (least, _, most) in profile.axes.items()} for profile in self.profiles]
        raise ValueError(
            f"The engine of {self.name} works for {' or '.join(map(str, ranges))}, and got {dict(sizes)}. Build it "
            "with larger --max-tokens, --max-past or --max-images, or give it less."
        )

    def _context(self, number: int, shapes: Mapping[str, tuple[int, ...]], stream: int) -> Context:
        """Kept, because a recorded CUDA graph refers to it.

        After a change of shapes the next run cannot be recorded. So for recording, the shapes of a context never
        change.
        """
        key = (number, *shapes.values()) if self.is_recorded else (number,)
        if key not in self.contexts:
            trt = self.loader.trt
            config = self.engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if self.is_recorded and trt.__name__ == PACKAGES["rtx"]:
                # Otherwise it compiles kernels for new lengths in the background; the graph keeps temporary ones.
                eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
            execution = self.engine.create_execution_context(config)
            if execution is None or not execution.set_optimization_profile_async(number, stream):
                raise self._refused(f"gets no context for profile {number}")
            execution.set_device_memory(self.memory.data_ptr(), self.memory.nbytes)
            self.contexts[key] = Context(execution, config)
        return self.contexts[key]


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if its address is not aligned as TensorRT needs it."""
    return tensor if tensor.storage_offset() * tensor.element_size() % ALIGNMENT == 0 else tensor.clone()


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make the GPU current, because TensorRT works on the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def words(self) -> str:
            return " ".join(self.errors[-3:]) or "it gave no reason."

    return Log()
