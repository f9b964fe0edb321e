"""What happens to an image before Inception sees it. The distance depends on it, so it stands beside every figure.

* "64": PIL's bicubic to a short side of 64, the middle square, bilinear to 299: the released code, for everything.
* "64-squeeze": PIL's bilinear to 64 x 64, whatever the shape: story visualisation (AR-LDM).
* "256": PIL's bilinear to a short side of 256, the middle square, bilinear to 299: most of the papers on COCO.
* "clean": PIL's bicubic on floating-point channels, straight to 299 (clean-fid).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from trainer.benchmarks.networks.inception import SIDE
from trainer.benchmarks.options import FidProtocol


def to_inception(image: PILImage.Image, protocol: FidProtocol) -> Tensor:
    """An RGB image as Inception takes it: float32 [3, 299, 299]."""
    match protocol:
        case "64":
            small = middle_square(image, 64, PILImage.Resampling.BICUBIC)
        case "64-squeeze":
            small = image.resize((64, 64), PILImage.Resampling.BILINEAR)
        case "256":
            small = middle_square(image, 256, PILImage.Resampling.BILINEAR)
        case "clean":
            return (torch.from_numpy(resized_as_float(image, SIDE)).permute(2, 0, 1) - 128) / 128
    return from_pixels(np.asarray(small))


def from_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 [h, w, 3] stretched to 299 x 299 as pytorch-fid does: float32 [3, 299, 299] in [-1, 1]."""
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
    return 2 * F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0] - 1


def middle_square(image: PILImage.Image, side: int, resampling: PILImage.Resampling) -> PILImage.Image:
    """The short side resized, the long one in proportion and rounded down, and the middle cut out."""
    short, long = sorted(image.size)
    scaled = int(side * long / short)
    size = (side, scaled) if image.width <= image.height else (scaled, side)
    resized = image if image.size == size else image.resize(size, resampling)
    left, top = (round((length - side) / 2) for length in resized.size)
    return resized.crop((left, top, left + side, top + side))


def resized_as_float(image: PILImage.Image, side: int) -> np.ndarray:
    """Bicubic without rounding in between: float32 [side, side, 3], 0 to 255."""
    channels = [
        np.asarray(
            PILImage.fromarray(channel).resize((side, side), PILImage.Resampling.BICUBIC), dtype=np.float32
        ).clip(0, 255)
        for channel in np.moveaxis(np.asarray(image, dtype=np.float32), 2, 0)
    ]
    return np.stack(channels, axis=2)
