"""Models built from other people's trained parts: a vision encoder, a language model, a Stable Diffusion."""
