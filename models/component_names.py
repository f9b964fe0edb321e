"""Names of components that settings choose among: what can be frozen, and what can be checkpointed."""

from __future__ import annotations

from typing import Literal

FrozenComponent = Literal["vision_encoder", "language_model", "vae", "unet_null_value", "image_decoder"]
"""The components that `models.frozen.freeze` can freeze.

"vision_encoder": the ViT, without the ViT-Adapter around it. "language_model": the host with its embeddings and its
head, without the synchronizers, the embedding of `<BoI>` and the head of the new tokens. "vae": between latents and
pixels. "unet_null_value": the value of the null slot in the synchronizers of the U-Net, zeros. "image_decoder": all of
it, for tasks that draw no images.
"""

CheckpointedComponent = Literal["vision_encoder", "language_model", "unet"]
"""The components that `models.activation_checkpointing` can checkpoint: the layers of the ViT, those of the language
model with their synchronizers, those of the U-Net without them."""

CompiledComponent = Literal["vision_encoder", "language_model", "unet"]
"""The components that `models.compiled_components` can compile: the layers of the ViT, those of the language model with
their synchronizers, the blocks of the U-Net without them."""
