"""Text and images to what the model takes, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from models.atomic_files import write_atomically
from models.config import MMInterleavedConfig
from models.images.arrays import array_to_image, checked_tensor, tensor_to_image
from models.images.fit import FINER, Fit, fitted
from models.images.rgb import MAX_PIXELS, to_rgb
from models.json_files import read_json_object, shortened
from models.plain_text import PlainTextEncoder, whole_tokenizer

ImageInput = Image.Image | np.ndarray | Tensor
"""A PIL image of any mode, a uint8 array [h, w, 3], or a float tensor [3, h, w] in [0, 1]."""

TOKENIZER_FILE = "tokenizer.json"
PROCESSOR_FILE = "processor.json"
MAX_SIDE = 2**16
"""Pixels."""


class MMInterleavedProcessor:
    """A tokenizer and the size of the images that the model reads.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; it must not add special tokens of its own (the model places them).
        image_size: what images are cropped and resized to, pixels: the side of a square, or (h, w).
        fit: "crop" takes the largest part of that shape in the centre, "squeeze" the whole image, whatever its shape,
            so that boxes are shares of the whole image. It has to be what the model was trained with.

    Raises:
        ValueError: another word for `fit`, or a size that is none.
    """

    def __init__(self, tokenizer: Tokenizer, *, image_size: int | tuple[int, int], fit: Fit = "crop") -> None:
        self.tokenizer = tokenizer
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        is_size = isinstance(size, tuple | list) and len(size) == 2
        if not is_size or not all(type(side) is int and 0 < side <= MAX_SIDE for side in size):
            raise ValueError(
                f"image_size is {shortened(image_size)}; expected the side of a square or (h, w) in pixels, up to "
                f"{MAX_SIDE}."
            )
        self.height, self.width = size
        if fit not in ("crop", "squeeze"):
            raise ValueError(f"fit is {fit!r}; expected 'crop' or 'squeeze'.")
        self.fit: Fit = fit
        self._encoder: tuple[Tokenizer, int, PlainTextEncoder] | None = None  # of which tokenizer, at which size

    def __call__(
        self, text: str | Sequence[str] | None = None, images: ImageInput | Sequence[ImageInput] | None = None
    ) -> BatchFeature:
        """Texts and images as tensors, in the manner of transformers' processors. `generate` does this itself.

        Args:
            text: one or more.
            images: one or more, in any form that `encode_image` takes.

        Returns:
            Of texts, `input_ids` [B, T] int64, without special tokens, and `attention_mask` [B, T] int64, 0 behind a
            text's end, where the ids are 0 too; of images, `pixel_values` [N, 3, h, w] float32.
        """
        tensors: dict[str, Tensor] = {}
        if text is not None:
            ids = [torch.tensor(self.encode_text(one)) for one in ([text] if isinstance(text, str) else text)]
            tensors["input_ids"] = pad_sequence(ids, batch_first=True).long()
            tensors["attention_mask"] = pad_sequence([torch.ones(len(one)) for one in ids], batch_first=True).long()
        if images is not None:
            images = [images] if isinstance(images, Image.Image | np.ndarray | Tensor) else images
            tensors["pixel_values"] = torch.stack([self.encode_image(image) for image in images])
        return BatchFeature(tensors)

    def batch_decode(self, ids: Sequence[list[int]] | Tensor) -> list[str]:
        """The text of each row of token ids [B, T]; special tokens are left out."""
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        return [self.decode_text(row) for row in rows]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens: text that spells one, such as "</s>", is encoded as the
        characters that it is.

        Raises:
            TypeError: not a str.
            ValueError: it holds half of a surrogate pair.
        """
        size = self.tokenizer.get_vocab_size()
        if self._encoder is None or self._encoder[0] is not self.tokenizer or self._encoder[1] != size:
            self._encoder = self.tokenizer, size, PlainTextEncoder(self.tokenizer)
        return self._encoder[2](text)

    def decode_text(self, ids: list[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def encode_image(self, image: ImageInput) -> Tensor:
        """An image as [3, h, w] float32 in [0, 1]: the part of it that `fit` says, resized.

        A PIL image is read as a person sees it (`models.images.rgb`): upright by its EXIF orientation, on white where
        it is transparent, the first frame of an animation. Of a tensor or an array, the numbers are taken as they are.

        Args:
            image: a PIL image, a uint8 array [h, w, 3], or a float tensor [3, h, w] in [0, 1].

        Raises:
            ValueError: a tensor or an array of another shape, dtype or range; an image that is empty, damaged, larger
                than `models.images.rgb.MAX_PIXELS`, or has numbers of which nobody knows which one is white.
            TypeError: anything else.
        """
        if isinstance(image, Tensor):
            pixels = checked_tensor(image)
            if pixels.shape[1:] == (self.height, self.width):
                return pixels
            image = tensor_to_image(pixels)
        if isinstance(image, np.ndarray):
            image = array_to_image(image)
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"An image must be a PIL image, a uint8 array [h, w, 3] or a float tensor [3, h, w]; got "
                f"a {type(image).__name__}. Open a file with PIL.Image.open or models.images.image_file.open_image."
            )
        rgb = to_rgb(image, max_pixels=MAX_PIXELS, min_side=FINER * max(self.height, self.width))
        return torch.from_numpy(fitted(rgb, (self.height, self.width), self.fit)).permute(2, 0, 1).float() / 255

    @staticmethod
    def decode_image(pixels: Tensor) -> Image.Image:
        """[3, h, w] float in [0, 1] to a PIL image."""
        return tensor_to_image(pixels)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `processor.json`."""
        write_atomically(Path(directory) / TOKENIZER_FILE, self.tokenizer.to_str(pretty=True))
        square = self.height == self.width
        settings = {"image_size": self.height if square else (self.height, self.width), "fit": self.fit}
        write_atomically(Path(directory) / PROCESSOR_FILE, json.dumps(settings) + "\n")

    @classmethod
    def from_directory(cls, directory: str | Path) -> MMInterleavedProcessor | None:
        """Read what `save_pretrained` wrote; None if the directory holds no processor.

        Raises:
            FileNotFoundError: the tokenizer is missing.
            ValueError: a file is damaged.
        """
        settings_file, tokenizer_file = Path(directory) / PROCESSOR_FILE, Path(directory) / TOKENIZER_FILE
        if not settings_file.is_file():
            return None
        if not tokenizer_file.is_file():
            raise FileNotFoundError(f"{directory} holds {PROCESSOR_FILE} and no {TOKENIZER_FILE}. Fetch it again.")
        settings = read_json_object(settings_file)
        if not {"image_size"} <= settings.keys() <= {"image_size", "fit"}:
            raise ValueError(
                f"{settings_file} has {shortened(sorted(settings))}; expected image_size, and fit if it is not 'crop'. "
                "Fetch or make it again."
            )
        tokenizer = read_tokenizer(tokenizer_file)
        try:
            return cls(tokenizer, **settings)
        except ValueError as error:
            raise ValueError(f"{settings_file}: {error} Fetch or make it again.") from error

    def check(self, config: MMInterleavedConfig, vocabulary_size: int, where: str) -> None:
        """Look whether this processor belongs to a model.

        Args:
            config: the model's.
            vocabulary_size: how many tokens it knows.
            where: the directory of both, for the message.

        Raises:
            ValueError: its images have another size, or its tokenizer has tokens that the model does not know.
        """
        if (self.height, self.width) != tuple(config.image_size):
            raise ValueError(
                f"{where}: {PROCESSOR_FILE} makes images of {(self.height, self.width)} pixels, and the model reads "
                f"{tuple(config.image_size)}. Fetch both again, from one model."
            )
        largest = max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= vocabulary_size:
            raise ValueError(
                f"{where}: {TOKENIZER_FILE} has a token {largest}, and the model knows {vocabulary_size}, from 0 on. "
                "Fetch both again, from one model."
            )


def read_tokenizer(file: Path) -> Tokenizer:
    """A `tokenizer.json`, as `whole_tokenizer` reads it.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return whole_tokenizer(file.read_text(encoding="utf-8"))
    except BaseException as error:  # tokenizers has no class of its own for them, and a panic in Rust is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = shortened(str(error).partition("\n")[0], 300)
        raise ValueError(f"{file} is damaged ({reason}). Fetch or make it again.") from error
