"""Continuing documents of text and images: `generate`, `generate_stream`, `Conversation` and `score`."""
