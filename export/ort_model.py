"""The exported model at work: reading and writing interleaved documents with onnxruntime, without the PyTorch model.

It is the proof that the files are enough, and an example of how a runtime puts them together.
Letters: S new tokens, C language-model width, N images so far, b images being drawn (1 here).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

from export.assets import EMBEDDING_FILE, SCHEDULE_FILE, RuntimeSettings
from export.assets import RUNTIME_FILE as SETTINGS_FILE
from export.noise_schedule import NoiseSchedule
from export.parity import open_session
from models import MMInterleavedProcessor

ONNX_DIR, ASSETS_DIR = "onnx", "assets"

Arrays = dict[str, np.ndarray]


class OrtModel:
    """The files that `python -m export.trt` wrote, opened in onnxruntime on the CPU."""

    def __init__(self, directory: Path) -> None:
        assets = directory / ASSETS_DIR
        processor = MMInterleavedProcessor.from_directory(assets)
        if processor is None:
            raise FileNotFoundError(f"{assets} holds no processor. Expected a directory written by export.trt.")
        self.processor = processor
        self.settings = RuntimeSettings.load(assets / SETTINGS_FILE)
        self.schedule = NoiseSchedule.load(assets / SCHEDULE_FILE)
        self.embedding = load_file(assets / EMBEDDING_FILE)["embedding"]  # [vocabulary, C]
        self.sessions = {file.stem: open_session(file) for file in sorted((directory / ONNX_DIR).glob("*.onnx"))}

    def run(self, component: str, **inputs: np.ndarray) -> Arrays:
        """Outputs of a component by name; inputs that it does not have are left out, e.g. `visible` without MMFS."""
        session = self.sessions[component]
        feeds = {port.name: inputs[port.name] for port in session.get_inputs()}
        names = [port.name for port in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    def generate(
        self,
        segments: list[str | Image.Image],
        *,
        mode: Literal["auto", "text", "image"] = "auto",
        max_new_tokens: int = 64,
        max_new_images: int = 1,
        seed: int = 0,
        num_inference_steps: int = 30,
        guidance_scale: float = 3.5,
    ) -> list[str | Image.Image]:
        """Continue a document, taking the likeliest token each time; options as for `MMInterleaved.generate`."""
        settings, processor = self.settings, self.processor
        document = _Document(self)
        document.read_tokens([settings.bos_token_id])
        for segment in segments:
            if isinstance(segment, str):
                if ids := processor.encode_text(segment):
                    document.read_tokens(ids)
            else:
                document.read_tokens([settings.begin_of_image_id])
                document.read_image(segment)

        written: list[str | Image.Image] = []
        ids = []
        num_images = 0
        for _ in range(max_new_tokens):
            may_draw = mode != "text" and num_images < max_new_images
            token = settings.begin_of_image_id if mode == "image" else document.likeliest_token(may_draw=may_draw)
            if token == settings.eos_token_id:
                break
            document.read_tokens([token])
            if token != settings.begin_of_image_id:
                ids.append(token)
                continue
            if text := processor.decode_text(ids):
                written.append(text)
            ids = []
            pixels = document.draw(seed=seed + num_images, num_steps=num_inference_steps, guidance_scale=guidance_scale)
            image = processor.decode_image(torch.from_numpy(pixels))
            written.append(image)
            num_images += 1
            if mode == "image" and num_images == max_new_images:
                return written
            document.read_image(image)
        if text := processor.decode_text(ids):
            written.append(text)
        return written


@dataclass
class _Document:
    """Everything read and written so far; each picture is encoded and projected once."""

    model: OrtModel
    past: Arrays = field(default_factory=dict)
    values: Arrays = field(default_factory=dict)  # mmfs_value_{j} and unet_mmfs_value_{j}, [N, X, H, D]
    hidden: list[np.ndarray] = field(default_factory=list)  # [1, S, C] each
    num_images: int = 0
    length: int = 0
    logits: np.ndarray | None = None  # [vocabulary], for the next token

    def __post_init__(self) -> None:
        for component in ("llm", "unet_mmfs"):
            for port in self.model.sessions[component].get_inputs():
                empty = np.zeros([size if isinstance(size, int) else 0 for size in port.shape], np.float32)
                if "mmfs_value_" in port.name:
                    self.values[port.name] = empty
                elif port.name.startswith("past_"):
                    self.past[port.name] = np.zeros((1, *empty.shape[1:]), np.float32)

    def read_tokens(self, ids: list[int]) -> None:
        self._read(self.model.embedding[ids][None])

    def read_image(self, image: Image.Image) -> None:
        pixels = self.model.processor.encode_image(image).unsqueeze(0).numpy()
        tokenized = self.model.run("image_tokenizer", pixel_values=pixels)
        for component in ("mmfs_values_llm", "mmfs_values_unet"):
            if component in self.model.sessions:
                for name, value in self.model.run(component, ms_features=tokenized["ms_features"]).items():
                    self.values[name] = np.concatenate([self.values[name], value])
        self.num_images += 1
        self._read(tokenized["visual_tokens"])

    def _read(self, embeddings: np.ndarray) -> None:
        num_new = embeddings.shape[1]
        limit = self.model.settings.max_positions
        if limit is not None and self.length + num_new > limit:
            raise ValueError(f"The sequence has {self.length + num_new} tokens; the language model reads {limit}.")
        found = self.model.run(
            "llm",
            inputs_embeds=embeddings,
            position_ids=np.arange(self.length, self.length + num_new)[None],
            write_indices=np.array([self.length]),
            last_token_ids=np.array([[num_new - 1]]),
            visible=np.broadcast_to(np.array([0, self.num_images]), (1, num_new, 2)),
            **self.past,
            **self.values,
        )
        for name, rows in self.past.items():
            self.past[name] = np.concatenate([rows, found[name.replace("past_", "new_")]], axis=2)
        self.hidden.append(found["hidden_states"])
        self.logits = found["logits"][0, 0]
        self.length += num_new

    def likeliest_token(self, *, may_draw: bool) -> int:
        assert self.logits is not None, "a document starts with <s>"
        settings = self.model.settings
        logits = self.logits.copy()
        never = {settings.pad_token_id, settings.bos_token_id, settings.image_token_id} - {settings.eos_token_id}
        logits[sorted(never)] = -np.inf
        if not may_draw:
            logits[settings.begin_of_image_id] = -np.inf
        return int(logits.argmax())

    def draw(self, *, seed: int, num_steps: int, guidance_scale: float) -> np.ndarray:
        """[3, h, w] in [0, 1]; the noise is PyTorch's, so that equal seeds draw the same picture there and here."""
        model = self.model
        hidden = np.concatenate(self.hidden, axis=1)
        context = model.run("context_resampler", context_hidden=hidden, context_length=np.array([self.length]))
        contexts = context["encoder_hidden_states"]  # [2, n, cross_attention_dim], negative first
        guided = guidance_scale != 1
        rows = 2 if guided else 1
        first = 0 if model.settings.context_images == "all" else max(self.num_images - 1, 0)
        noise = torch.randn(model.settings.latent_shape, generator=torch.Generator().manual_seed(seed))
        latents = noise.unsqueeze(0).numpy()
        for timestep in model.schedule.timesteps(num_steps):
            predicted = model.run(
                "unet_mmfs",
                sample=latents.repeat(rows, axis=0),
                timestep=np.full(rows, timestep, np.float32),
                encoder_hidden_states=contexts[-rows:],
                visible=np.array([[first, self.num_images]] * rows),
                **self.values,
            )["model_output"]
            if guided:
                plain, conditional = predicted[:1], predicted[1:]
                predicted = plain + np.float32(guidance_scale) * (conditional - plain)
            latents = model.schedule.step(predicted, timestep, latents, num_steps=num_steps)
        return model.run("vae_decoder", latents=latents)["image"][0]
