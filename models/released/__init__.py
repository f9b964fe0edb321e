"""The released MM-Interleaved weights: their names, their files, and their conversion."""
