"""An exported model behind the interface of the PyTorch model, the same for every backend.

session = Session.open(Path("runs/demo/export"), "ort")
session.generate(["a snail left of a rocket"], mode="image").show()
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path

import torch

from export.components.all import components_of
from export.engine.compatibility import BUILDERS, Machine
from export.formats import SESSION_BACKENDS, SessionBackend
from export.runtime.assets import Assets
from export.runtime.generation_state import ExportedGenerationState
from export.runtime.memory import Memory
from export.runtime.runner import ComponentRunner, TorchRunner
from export.runtime.runners import kserve_runners, onnxruntime_runners, tensorrt_runners
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.generation.generation_mixin import GenerationMixin
from plugins_trt.tensorrt_package import open_package


class Session(GenerationMixin):
    """Reads and writes interleaved images and text as `MMInterleaved` does, with the model's components.

    `generate`, `generate_stream` and `score` take the same arguments. Backends differ in rounding alone.

    Args:
        runners: all components of a model, on one device.
        assets: what they need beside them.
    """

    def __init__(self, runners: Mapping[str, ComponentRunner], assets: Assets) -> None:
        self.runners = dict(runners)
        self.assets = assets.to(self.runners["llm"].device)
        self._free: list[Memory] = []

    @classmethod
    def open(
        cls,
        directory: str | Path,
        backend: SessionBackend,
        *,
        model: MMInterleaved | None = None,
        device: torch.device | str | None = None,
        url: str | None = None,
    ) -> Session:
        """What `python -m export.trt` wrote.

        Args:
            directory: the export.
            backend: "ort", onnxruntime; "trt" or "rtx", the engines of TensorRT or TensorRT-RTX; "torch", the model;
                "triton", a server for what is large and keeps nothing (the image tokenizer, the U-Net and the VAE's
                decoder), with a repository of `python -m export.trt --triton`, and onnxruntime here for the rest.
            model: what was exported: "torch" runs all of it, the others only components that were left to PyTorch.
            device: where to run. None: a GPU for engines, and for "torch" if there is one; else the CPU.
            url: of the server, for "triton": "http://host:8000".

        Raises:
            FileNotFoundError: something is missing.
            InferenceServerError: the server does not answer, or does not have a component.
            IncompatibleExport: the files or engines are not what the manifest says, or not for this machine.
            MissingPackage: the backend is not installed.
            ValueError: no such backend, no model where one is needed, or a url without a server's back end.
        """
        if backend not in SESSION_BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected one of {', '.join(SESSION_BACKENDS)}.")
        if (backend == "triton") != (url is not None):
            raise ValueError(
                f"backend is {backend!r} and url is {url!r}. The back end triton, and no other, has a server's url."
            )
        if backend == "torch":
            if model is None:
                raise ValueError("The back end torch needs the model that was exported; give it as model.")
            return cls.of(model, device=device)
        directory = Path(directory)
        on_gpu = backend in ("trt", "rtx")
        where = _device(device or ("cuda" if on_gpu else "cpu"))
        if url is not None:
            if where.type != "cpu":
                raise ValueError(f"device is {device!r}. With a server, the rest is computed on the CPU; leave it out.")
            return cls(*kserve_runners(directory, url, model))
        if on_gpu:
            package = open_package(BUILDERS[backend])
            machine = Machine.here(package.__version__, where)
            return cls(*tensorrt_runners(directory, backend, package, machine, where, model))
        return cls(*onnxruntime_runners(directory, where, model))

    @classmethod
    def of(
        cls, model: MMInterleaved, *, device: torch.device | str | None = None, sampling_locations: bool = False
    ) -> Session:
        """The components of a model as PyTorch computes them; on a GPU, steps are recorded as CUDA graphs. The model
        moves to the device.

        Args:
            model: cut into components.
            device: where to run. None: a GPU if there is one, else the CPU.
            sampling_locations: whether `generate` may be asked for them.

        Raises:
            ValueError: there is no such device.
        """
        where = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if where.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, and PyTorch sees no NVIDIA GPU here. Use cpu.")
        components = components_of(model, sampling_locations=sampling_locations)
        assets = Assets.of(model, components)
        dtype = model.begin_of_image.dtype
        return cls({name: TorchRunner(component, where, dtype) for name, component in components.items()}, assets)

    @property
    def config(self) -> MMInterleavedConfig:
        """Of the model that was exported."""
        return self.assets.config

    @property
    def processor(self) -> MMInterleavedProcessor | None:
        """Of the model that was exported."""
        return self.assets.processor

    def begin_generation(self, num_documents: int) -> ExportedGenerationState:
        """An empty state. Memory and recorded CUDA graphs of earlier states are used again once those are gone."""
        memory = self._free.pop() if self._free else Memory(self.runners, self.assets)
        state = ExportedGenerationState(memory, num_documents)
        weakref.finalize(state, self._free.append, memory)
        return state


def _device(name: torch.device | str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}. Expected cpu, cuda, or cuda:1 and so on.") from error
