"""Continuing documents of text and images: `generate`, `generate_stream` and `score`."""
