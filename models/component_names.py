"""Names of components that settings choose among: what can be frozen, and what can be checkpointed."""

from __future__ import annotations

from typing import Literal

FrozenComponent = Literal["vision", "language_model", "vae", "drawing_null", "image_decoder"]
"""What `models.frozen.freeze` keeps from learning.

"vision": CLIP, without the ViT-Adapter around it. "language_model": the host with its embeddings and its head, without
the synchronizers, the embedding of `<BoI>` and the head of the new tokens. "vae": between latents and pixels.
"drawing_null": what the null slot of a U-Net synchronizer holds, zeros. "image_decoder": all of it, for tasks that draw
nothing.
"""

CheckpointedComponent = Literal["vision", "language_model", "unet"]
"""Whose layers `models.activation_checkpointing` recomputes: CLIP's, the language model's with their synchronizers, the
U-Net's without them."""
