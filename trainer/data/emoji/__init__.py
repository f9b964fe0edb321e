"""The emoji world: generated pictures of real artwork whose every label is exact."""
