"""MM-Interleaved, the model: the network with what a user does with it: generate, score, save, load.

Its forward pass is in `models/network.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from models.activation_checkpointing import disable_activation_checkpointing, enable_activation_checkpointing
from models.atomic_files import write_atomically
from models.component_names import CheckpointedComponent
from models.config import CONFIG_FILE, MMInterleavedConfig
from models.digests import write_digests
from models.frozen import MODULE_NAMES
from models.generation.generation_mixin import GenerationMixin
from models.generation.torch_state import TorchGenerationState
from models.hub import model_directory, upload_model
from models.image_codec import vae_dtype
from models.loading_options import DeviceMap, float_dtype, one_device
from models.lora import ADAPTER_FOLDER, is_adapter, load_adapter, matrices, save_adapter, tensors_to_save
from models.model_card import CARD_FILE, model_card
from models.model_directory import open_model_directory
from models.network import Network
from models.pretrained.from_parts import from_parts
from models.pretrained.snapshots import PretrainedComponents
from models.processor import MMInterleavedProcessor
from models.released.base_weights import BASE_FILE
from models.stored_weights import StoredWeights
from models.tensor_files import WEIGHTS_FILE, write_shards, write_tensors
from models.torch_defaults import usual_torch_defaults
from models.uninitialized import uninitialized

HOST = f"{MODULE_NAMES['language_model']}."
"""What the names of the language model's own tensors start with."""


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
        """An empty state; see `models.generation.torch_state`."""
        return TorchGenerationState(self, num_documents)

    def gradient_checkpointing_enable(self) -> None:
        """Activation checkpointing of all components that have it, under transformers' name for it; see
        `models.activation_checkpointing.enable_activation_checkpointing`, which takes them one by one."""
        enable_activation_checkpointing(self, get_args(CheckpointedComponent))

    def gradient_checkpointing_disable(self) -> None:
        """The reverse of `gradient_checkpointing_enable`."""
        disable_activation_checkpointing(self)

    def save_pretrained(
        self, directory: str | Path, *, max_shard_size: int | str | None = None, is_main_process: bool = True
    ) -> None:
        """Write the weights, the processor's files, `adapter/` where adapters stay apart, a model card if there is no
        README.md yet, `config.json`, and last `SHA256SUMS` with the digests of all but the card.

        A directory is no model before its `config.json` is there, and where an earlier model is replaced, a killed call
        leaves a mixture that does not load, for the digests are of the earlier one.

        Args:
            directory: made if it is not there.
            max_shard_size: of a file of weights, in bytes or as a text such as "5GB". None: all in one file, which
                `python -m export.trt` needs.
            is_main_process: whether this process writes. Of a model that is sharded over several, all have to call this
                with max_shard_size None: each tensor is gathered when it is written, and no process has all at once.

        Raises:
            ValueError: the language model is quantised; there are adapters that would not be saved; or shards are to go
                to a directory that holds a converted model, whose shards they would replace one by one.
        """
        if getattr(self.language_model.host, "is_quantized", False):
            raise ValueError(
                "The language model is quantised, and what is saved could not be read back. Save a model that "
                "was built without language_model_bits."
            )
        directory = Path(directory)
        if max_shard_size is not None and (directory / BASE_FILE).is_file():
            raise ValueError(
                f"{directory} holds a converted model ({BASE_FILE}). Name another directory, or leave max_shard_size "
                "out."
            )
        tensors = tensors_to_save(self)
        if is_main_process:
            directory.mkdir(parents=True, exist_ok=True)
        if max_shard_size is None:
            write_tensors(directory / WEIGHTS_FILE, tensors, is_main_process=is_main_process)
        else:
            write_shards(directory, tensors, max_shard_size)
        if self.lora is not None and not self.lora.merge:
            save_adapter(self, directory / ADAPTER_FOLDER, is_main_process=is_main_process)
        if not is_main_process:
            return
        if self.processor is not None:
            self.processor.save_pretrained(directory)
        if not (directory / CARD_FILE).exists():
            sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in self.named_children()}
            write_atomically(directory / CARD_FILE, model_card(self.config, sizes))
        self.config.save(directory / CONFIG_FILE)
        write_digests(directory)

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str | None = "5GB", **options: Any) -> str:
        """Upload the model to the Hugging Face Hub, into a repository that is made if it is not there.

        Args:
            repo_id: "owner/name".
            max_shard_size: as for `save_pretrained`.
            options: of `models.hub.upload_model`: revision, private, token, commit_message, create_pr.

        Returns:
            The address of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            return upload_model(Path(folder), repo_id, **options)

    @classmethod
    @usual_torch_defaults()
    def from_pretrained(
        cls,
        name_or_directory: str | Path,
        *,
        revision: str | None = None,
        base: Mapping[str, str | Path] | None = None,
        config: MMInterleavedConfig | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
        device_map: DeviceMap | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        check_digests: bool = True,
    ) -> MMInterleaved:
        """Read what `save_pretrained` or `python -m models.convert` wrote; the model is in evaluation mode.

        Weights may be in several files, and stored in another float type. They are read one by one to their
        final place: no more memory is needed than the model takes in `dtype`.

        Args:
            name_or_directory: a directory, the name of a repository on the Hugging Face Hub, "owner/name", or the URL
                of a directory in object storage (s3://bucket/run/model).
            revision: of the repository: a branch, a tag or a commit. None: its default branch.
            base: for a model that was converted with `--base`, where the snapshots are now, if they have moved: any of
                "language_model", "vision_encoder" and "image_decoder" with its directory.
            config: settings that the same weights fit, to use instead of the directory's: another size of images,
                for one, which the processor then has too.
            dtype: of the weights, a float type or its name. "auto": as they are stored; one type for the language
                model without its synchronizers, and one for all else. Buffers (rotary frequencies, pixel statistics)
                stay float32.
            device: where the weights are to be.
            device_map: the same in transformers' words, for one device.
            token: for a private repository. None: the one that `hf auth login` stored.
            local_files_only: take a repository from the hub's cache alone; so does `HF_HUB_OFFLINE=1`.
            check_digests: first read all files and compare them with `SHA256SUMS`, if the directory has one: 0.6 s for
                each GB on one core, up to 4 files at once. False: a flipped bit in a weight is not noticed.

        Raises:
            FileNotFoundError: there is no such directory or repository, it holds no model, or a snapshot is not where
                it was.
            ValueError: a file is damaged or not as it was saved, or describes what cannot be; or the weights do not fit
                the configuration. The message names the file and the keys. Or `dtype` is not a float type, or
                `device_map` names several devices.
        """
        kind: torch.dtype | Literal["auto"] = "auto" if dtype == "auto" else float_dtype(dtype, also=', or "auto"')
        device = one_device(device, device_map)
        directory = model_directory(
            name_or_directory, revision=revision, token=token, local_files_only=local_files_only
        )
        opened = open_model_directory(directory, base=base, config=config, digests=check_digests)
        model = uninitialized(lambda: cls(opened.config, opened.processor))
        model.load_weights(opened.weights, dtype=kind, device=device)
        if (directory / ADAPTER_FOLDER).is_dir():
            load_adapter(model, directory / ADAPTER_FOLDER)
        return model.to(device).eval()

    @torch.no_grad()
    def load_weights(
        self,
        weights: StoredWeights,
        *,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Take all weights of a model directory, strictly; the parameters become of this type, on this device. Adapters
        keep their numbers, and a VAE that overflows float16 is float32 instead.

        Raises:
            ValueError: names or shapes differ.
        """
        weights.check_fit(matrices(self))

        def of_type(tensors: Callable[[str], bool]) -> torch.dtype:
            return (weights.dtype(tensors) or torch.float32) if dtype == "auto" else dtype

        host_dtype = of_type(lambda name: name.startswith(HOST))
        other_dtype = of_type(lambda name: not name.startswith(HOST))
        of_vae = vae_dtype(self.config.image_decoder, other_dtype)
        for name, parameter in self.named_parameters():
            own = host_dtype if name.startswith(HOST) else other_dtype
            if is_adapter(name):
                parameter.data = parameter.to(device, own)
            else:
                own = of_vae if name.startswith(f"{MODULE_NAMES['vae']}.") else own
                parameter.data = torch.empty(parameter.shape, dtype=own, device=device)
        expected = matrices(self)
        for piece in weights.pieces():
            piece.put(expected[piece.name])
