"""MM-Interleaved, the model: what a person does with the network: write, score, save, load.

Its forward pass is in `models/network.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.config import MMInterleavedConfig
from models.frozen import MODULE_NAMES
from models.generation.generation_mixin import GenerationMixin
from models.generation.torch_state import TorchGenerationState
from models.image_codec import vae_dtype
from models.lora import ADAPTER_FOLDER, is_adapter, load_adapter, matrices, save_adapter, tensors_to_save
from models.network import Network
from models.pretrained.from_parts import from_parts
from models.pretrained.snapshots import PretrainedComponents
from models.processor import MMInterleavedProcessor
from models.stored_weights import StoredWeights
from models.tensor_files import WEIGHTS_FILE, write_tensors
from models.uninitialized import uninitialized

CONFIG_FILE = "config.json"


class MMInterleaved(Network, GenerationMixin):
    """Reads and writes interleaved images and text (paper Section 3).

    Args:
        config: sizes and choices.
        processor: makes tokens of text and tensors of images, and back. None: no text can be read or written.
        pretrained: pre-trained networks that fit `config`. None: new ones.
    """

    def __init__(
        self,
        config: MMInterleavedConfig,
        processor: MMInterleavedProcessor | None = None,
        pretrained: PretrainedComponents | None = None,
    ) -> None:
        super().__init__(config, pretrained)
        self.processor = processor

    @classmethod
    def from_parts(cls, **options: Any) -> MMInterleaved:
        """A model with the weights of a vision encoder, a causal language model and a Stable Diffusion; see
        `models.pretrained.from_parts` for the options."""
        return from_parts(cls, **options)

    def begin_generation(self, num_documents: int) -> TorchGenerationState:
        """Nothing read yet; see `models.generation.torch_state`."""
        return TorchGenerationState(self, num_documents)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `config.json`, `model.safetensors`, the processor's files, and `adapter/` where adapters stay apart.

        Raises:
            ValueError: the language model is quantised.
        """
        if getattr(self.language_model.host, "is_quantized", False):
            raise ValueError(
                "The language model is quantised, and what is saved could not be read back. Save a model that "
                "was built without language_model_bits."
            )
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.save(directory / CONFIG_FILE)
        write_tensors(directory / WEIGHTS_FILE, tensors_to_save(self))
        if self.lora is not None and not self.lora.merge:
            save_adapter(self, directory / ADAPTER_FOLDER)
        if self.processor is not None:
            self.processor.save_pretrained(directory)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        base: Mapping[str, str | Path] | None = None,
        config: MMInterleavedConfig | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> MMInterleaved:
        """Read what `save_pretrained` or `python -m models.convert` wrote; the model is in evaluation mode.

        Weights may be in several files, and stored in another float type. They are read one by one to where they stay:
        no more memory is needed than the model takes in `dtype`.

        Args:
            directory: the model.
            base: for a model that was converted with `--base`, where the snapshots are now, if they have moved: any of
                "language_model", "vision_encoder" and "image_decoder" with its directory.
            config: settings that the same weights fit, to use instead of the directory's: another size of images,
                for one, which the processor then has too.
            dtype: of the weights, a float type. Buffers (rotary frequencies, pixel statistics) stay float32.
            device: where the weights are to be.

        Raises:
            FileNotFoundError: the directory holds no model, or a snapshot is not where it was.
            ValueError: the weights do not fit the configuration; the message names the keys. Or `dtype` is not a
                float type.
        """
        if not dtype.is_floating_point:
            raise ValueError(
                f"dtype is {dtype}; expected a float type: torch.float32, torch.bfloat16 or torch.float16."
            )
        directory = Path(directory)
        if not (directory / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{directory} holds no {CONFIG_FILE}. Expected a directory written by MMInterleaved.save_pretrained or "
                "python -m models.convert."
            )
        weights = StoredWeights(directory, base)
        processor = MMInterleavedProcessor.from_directory(directory)
        if config is not None and processor is not None:
            size = config.image_size
            processor = MMInterleavedProcessor(processor.tokenizer, image_size=size, fit=processor.fit)
        settings = config or MMInterleavedConfig.load(directory / CONFIG_FILE)
        model = uninitialized(lambda: cls(settings, processor))
        model.load_weights(weights, dtype=dtype, device=device)
        if (directory / ADAPTER_FOLDER).is_dir():
            load_adapter(model, directory / ADAPTER_FOLDER)
        return model.to(device).eval()

    @torch.no_grad()
    def load_weights(
        self,
        weights: StoredWeights,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Take all weights of a model directory, strictly; the parameters become of this type, on this device. Adapters
        keep their numbers, and a VAE that overflows float16 is float32 instead.

        Raises:
            ValueError: names or shapes differ.
        """
        expected, shapes = matrices(self), weights.shapes()
        missing, unknown = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
        wrong = sorted(k for k in expected.keys() & shapes.keys() if list(expected[k].shape) != shapes[k])
        if missing or unknown or wrong:
            raise ValueError(
                f"{weights.files[0]} does not fit the configuration beside it: {len(missing)} keys are missing "
                f"{missing[:3]}, {len(unknown)} are unknown {unknown[:3]}, {len(wrong)} have another shape {wrong[:3]}."
                " Give the configuration that they were saved with."
            )
        of_vae = vae_dtype(self.config.image_decoder, dtype)
        for name, parameter in self.named_parameters():
            if is_adapter(name):
                parameter.data = parameter.to(device, dtype)
            else:
                own = of_vae if name.startswith(f"{MODULE_NAMES['vae']}.") else dtype
                parameter.data = torch.empty(parameter.shape, dtype=own, device=device)
        expected = matrices(self)
        for piece in weights.pieces():
            piece.put(expected[piece.name])
