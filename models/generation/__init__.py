"""Continuing documents of text and pictures: `generate`, `generate_stream` and `score`."""
