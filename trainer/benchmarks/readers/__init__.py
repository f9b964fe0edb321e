"""Readers of the files in which benchmarks are published. None opens an image."""
