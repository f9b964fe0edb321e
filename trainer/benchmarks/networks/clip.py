"""Features of CLIP, of images and of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from transformers import CLIPModel, CLIPProcessor

from trainer.benchmarks.settings import digest_of
from trainer.errors import UsageError

BATCH_SIZE = 32


class Clip:
    """A CLIP of transformers (the paper: ViT-L/14).

    Args:
        directory: with its weights and its processor, as `openai/clip-vit-large-patch14` on the hub has them.

    Raises:
        UsageError: the directory holds none.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        try:
            self._model = CLIPModel.from_pretrained(directory, local_files_only=True).eval().to(device)
            self._processor = CLIPProcessor.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"--clip {directory}: {error}") from error
        self._directory = directory
        self._device = device

    @property
    def digest(self) -> str:
        """SHA-256 of its weights and settings, which are read for it."""
        patterns = ("*.json", "*.txt", "*.safetensors", "*.bin")
        return digest_of(file for pattern in patterns for file in sorted(self._directory.glob(pattern)))

    @torch.no_grad()
    def of_images(self, images: Sequence[PILImage.Image]) -> np.ndarray:
        """float32 [images, features]"""
        return self._features(images, lambda part: {"images": list(part)}, self._model.get_image_features)

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, features]; what is longer than CLIP reads, 77 tokens, is cut."""
        length = self._model.config.text_config.max_position_embeddings
        return self._features(
            texts,
            lambda part: {"text": list(part), "padding": True, "truncation": True, "max_length": length},
            self._model.get_text_features,
        )

    def _features(
        self,
        items: Sequence[Any],
        arguments: Callable[[Sequence[Any]], dict[str, Any]],
        features: Callable[..., Any],
    ) -> np.ndarray:
        found = []
        for start in range(0, len(items), BATCH_SIZE):
            inputs = self._processor(**arguments(items[start : start + BATCH_SIZE]), return_tensors="pt")
            result = features(**inputs.to(self._device))
            # transformers 5 returns the whole output, 4 the features alone
            result = getattr(result, "pooler_output", result)
            found.append(result.float().cpu().numpy())
        return np.concatenate(found)
