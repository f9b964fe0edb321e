"""Classes of pixels, by a semantic segmentation model of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)

from trainer.errors import UsageError

NUM_CLASSES = 150


class Segmenter:
    """A model that knows the 150 classes of ADE20K (the paper: OneFormer).

    Args:
        directory: with its weights and its image processor.

    Raises:
        UsageError: the directory holds none, or one of another number of classes.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        try:
            config = AutoConfig.from_pretrained(directory, local_files_only=True)
            self._processor = AutoImageProcessor.from_pretrained(directory, local_files_only=True)
            universal = type(config) in AutoModelForUniversalSegmentation._model_mapping
            kind = AutoModelForUniversalSegmentation if universal else AutoModelForSemanticSegmentation
            self._model = kind.from_pretrained(directory, local_files_only=True).eval().to(device)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"--segmenter {directory}: {error}") from error
        if config.num_labels != NUM_CLASSES:
            raise UsageError(f"--segmenter {directory} knows {config.num_labels} classes; ADE20K has {NUM_CLASSES}.")
        self.name = f"{type(self._model).__name__} in {directory.name}"
        self._device = device

    @torch.no_grad()
    def classes(self, image: PILImage.Image, height: int, width: int) -> np.ndarray:
        """The class of each pixel of an image stretched to a size: integers [height, width], 0 to 149."""
        image = image.convert("RGB").resize((width, height), PILImage.Resampling.BILINEAR)
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        outputs = self._model(**inputs)
        [found] = self._processor.post_process_semantic_segmentation(outputs, target_sizes=[(height, width)])
        return found.cpu().numpy()
