"""A component as a TensorRT engine: the same for TensorRT and TensorRT-RTX, whose Python interface is one.

No engine has been executed so far. What decides something here (profiles, padding, addresses) is tested with a stand-in
for the package that has the same calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from export.components import Port
from export.profiles import Profile
from export.runtime.part import Part, Tensors, axis_lengths
from plugins_trt.plugin import Plugins


class EngineRefused(RuntimeError):
    """TensorRT does not load or does not run an engine."""


@dataclass
class Loader:
    """A TensorRT that loads plans, with what they need of mmfs.

    Args:
        trt: from `plugins_trt.tensorrt_package.open_package`.
        carriers: of the plugins in the plans, as the manifest names them (`plugins_trt.carriers.CARRIERS`).
    """

    trt: ModuleType
    carriers: Set[str]
    log: Any = field(init=False)
    runtime: Any = field(init=False)
    plugins: Plugins | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.log = _log(self.trt)
        if "python" in self.carriers:
            self.plugins = Plugins(self.trt)
        self.runtime = self.trt.Runtime(self.log)
        if "library" in self.carriers:
            self.runtime.engine_host_code_allowed = True  # the library is inside of the plan

    def load(self, plan: bytes, name: str) -> Any:
        """An engine.

        Raises:
            EngineRefused: in TensorRT's words.
        """
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineRefused(f"{self.trt.__name__} does not load the engine of {name}: {self.log.words()}")
        return engine


class EnginePart(Part):
    """An engine with an execution context for each of its profiles.

    Args:
        name: of the component.
        inputs: its inputs.
        outputs: its outputs.
        plan: the engine.
        profiles: between which sizes it works, in the order in which it was built with them.
        loader: which TensorRT.
        device: the GPU.

    Raises:
        EngineRefused: it does not load.
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
        self.engine = loader.load(plan, name)
        self.contexts: dict[int, Any] = {}

    def most(self, axis: str) -> int | None:
        return max(profile.axes[axis][2] for profile in self.profiles if axis in profile.axes)

    def num_rows(self, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
        axis = next(iter(self.inputs.values())).shape[0]
        assert isinstance(axis, str), "every component has rows"
        ranges = [profile.axes[axis] for profile in self.profiles]
        return min(least for least, _, _ in ranges), max(most for _, _, most in ranges)

    def run(self, inputs: Tensors) -> Tensors:
        number = self._profile_for(axis_lengths(self.inputs, inputs))
        outputs = self.empty_outputs(inputs)
        stream = _stream(self.device)
        context = self._context(number, stream)
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineRefused(f"{self.name} refuses {name} {list(tensor.shape)}: {self.loader.log.words()}")
        for name, tensor in (inputs | outputs).items():
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(stream):
            raise EngineRefused(f"{self.name} did not run: {self.loader.log.words()}")
        return outputs

    def _profile_for(self, sizes: Mapping[str, int]) -> int:
        """The first profile that takes these lengths: the narrow one stands before the wide one."""
        for number, profile in enumerate(self.profiles):
            if all(least <= sizes[axis] <= most for axis, (least, _, most) in profile.axes.items()):
                return number
        ranges = [{axis: [least, most] for axis, (least, _, most) in profile.axes.items()} for profile in self.profiles]
        raise ValueError(
            f"The engine of {self.name} works for {' or '.join(map(str, ranges))}, and got {dict(sizes)}. Build it "
            "with larger --max-tokens, --max-past or --max-images, or give it less."
        )

    def _context(self, number: int, stream: int) -> Any:
        """Kept, because a recorded CUDA graph refers to it."""
        if number not in self.contexts:
            context = self.engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(number, stream):
                raise EngineRefused(f"{self.name} gets no context for profile {number}: {self.loader.log.words()}")
            self.contexts[number] = context
        return self.contexts[number]


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
