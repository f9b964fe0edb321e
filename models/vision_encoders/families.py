"""Which encoder a `model_type` of transformers is: the one place that lists them."""

from __future__ import annotations

from models.vision_encoders.clip import CLIPEncoder
from models.vision_encoders.dinov2 import Dinov2Encoder, Dinov2WithRegistersEncoder
from models.vision_encoders.interface import VisionEncoder
from models.vision_encoders.siglip import SiglipEncoder


def encoder_class(model_type: str | None, where: str) -> type[VisionEncoder]:
    """The class for a snapshot or a configuration.

    Args:
        model_type: as in `config.json` of a snapshot: of the encoder alone, or of a model that it is the image half of.
        where: the snapshot or configuration, for the message.

    Raises:
        ValueError: no class is for this type.
    """
    match model_type:
        case "clip" | "clip_vision_model":
            return CLIPEncoder
        case "siglip" | "siglip_vision_model":
            return SiglipEncoder
        case "dinov2":
            return Dinov2Encoder
        case "dinov2_with_registers":
            return Dinov2WithRegistersEncoder
        case "siglip2" | "siglip2_vision_model":
            raise ValueError(
                f"{where} is a SigLIP 2 with images of any shape (NaFlex), which reads lists of patches instead of "
                "images. Take a SigLIP 2 of fixed resolution, such as google/siglip2-so400m-patch14-384."
            )
        case None:
            raise ValueError(
                f"{where} does not say its model_type. Expected clip_vision_model, siglip_vision_model, dinov2 or "
                "dinov2_with_registers; what an earlier version wrote is clip_vision_model."
            )
    raise ValueError(
        f"{where} holds a model of type {model_type!r}. Expected a vision encoder of type clip, clip_vision_model, "
        "siglip, siglip_vision_model (SigLIP 2 of fixed resolution is one), dinov2 or dinov2_with_registers."
    )
