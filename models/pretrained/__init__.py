"""Models built from other people's trained parts: a CLIP, a language model, a Stable Diffusion."""
