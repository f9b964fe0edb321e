"""Text and pictures to what the model takes, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

TOKENIZER_FILE = "tokenizer.json"
PROCESSOR_FILE = "processor.json"


class MMInterleavedProcessor:
    """A tokenizer and the size of the pictures that the model reads.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; it must not add special tokens of its own (the model places them).
        image_size: side of the square that pictures are cropped and resized to, pixels.
    """

    def __init__(self, tokenizer: Tokenizer, *, image_size: int) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size

    def encode_text(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode_text(self, ids: list[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def encode_image(self, image: Image.Image | np.ndarray | Tensor) -> Tensor:
        """A picture as [3, image_size, image_size] float32 in [0, 1]: centre crop, then resize.

        Args:
            image: a PIL image, a uint8 array [H, W, 3], or a float tensor [3, H, W] in [0, 1].
        """
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise ValueError(
                    f"An image tensor must be float [3, H, W] in [0, 1]; got {image.dtype} {list(image.shape)}. "
                    "Convert it, or pass a PIL image."
                )
            if image.shape[1:] == (self.image_size, self.image_size):
                return image.float()
            image = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"An image array must be uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}.")
            image = Image.fromarray(image)
        image = image.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        if side != self.image_size:
            square = square.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255

    @staticmethod
    def decode_image(pixels: Tensor) -> Image.Image:
        """[3, h, w] float in [0, 1] to a PIL image."""
        return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `processor.json`."""
        self.tokenizer.save(str(Path(directory) / TOKENIZER_FILE))
        settings = {"image_size": self.image_size}
        (Path(directory) / PROCESSOR_FILE).write_text(json.dumps(settings) + "\n")

    @classmethod
    def from_directory(cls, directory: str | Path) -> MMInterleavedProcessor | None:
        """Read what `save_pretrained` wrote; None if the directory holds no processor."""
        if not (Path(directory) / PROCESSOR_FILE).is_file():
            return None
        settings = json.loads((Path(directory) / PROCESSOR_FILE).read_text())
        return cls(Tokenizer.from_file(str(Path(directory) / TOKENIZER_FILE)), **settings)
